"""Normalisation that is missing, or made twice, shows in the accuracy that a usual one would give."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.engine.continuous_batching import misclassified
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.robustness.checks.normalization import normalized_once
from symmetry_robustness.robustness.measures.base import MeasureInputs

CIFAR = ([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.262])


class Brightness(nn.Module):
    """Names the tenth of [0, 1] in which the mean of an image lies, whose pixels it wants as (x - mean) / std."""

    def __init__(self, mean: float | list[float], std: float | list[float]) -> None:
        super().__init__()
        self.undone = [torch.as_tensor(value).view(-1, 1, 1) for value in (mean, std)]

    def forward(self, images: Tensor) -> Tensor:
        mean, std = self.undone
        return -((images * std + mean).mean((1, 2, 3))[:, None] - torch.linspace(0.05, 0.95, 10)).square()


def check(network: nn.Module, size: int = 200, wrong: float = 0.2) -> tuple[str, str]:
    """Status and evidence on images of every brightness, a share of whose labels are wrong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size) % 10
    images = ((labels + torch.rand(size, generator=generator)) / 10)[:, None, None, None].expand(size, 3, 4, 4).clone()
    labels = torch.where(torch.rand(size, generator=generator) < wrong, (labels + 5) % 10, labels)
    sample = MeasureInputs(network, images, labels, np.arange(len(images)))
    found = normalized_once(sample, ~misclassified(network(images), labels))
    assert found.name == "normalized_once"
    return found.status, found.evidence


HONEST = {
    "raw pixels": Brightness(0.0, 1.0),
    "halves": nn.Sequential(Normalize(0.5, 0.5), Brightness(0.5, 0.5)),
    "CIFAR": nn.Sequential(Normalize(*CIFAR), Brightness(*CIFAR)),
    "bytes": nn.Sequential(Normalize(0.0, 1 / 255), Brightness(0.0, 1 / 255)),
}


@pytest.mark.parametrize("network", HONEST.values(), ids=HONEST.keys())
@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.8, 0.95])
def test_honest_networks_pass_however_good_they_are(network: nn.Module, wrong: float) -> None:
    assert check(network, wrong=wrong)[0] == "passed"


DEFECTS = {
    "halves missing": (HONEST["halves"][1], "with mean=0.5 std=0.5 in front: is the normalisation missing?"),
    "CIFAR missing": (HONEST["CIFAR"][1], "with mean=0.47 std=0.25 in front"),
    "bytes missing": (HONEST["bytes"][1], "with pixels up to 255"),
    "halves twice": (
        nn.Sequential(Normalize(0.5, 0.5), HONEST["halves"]),
        "with mean=0.5 std=0.5 undone: does the network normalise by itself?",
    ),
    "CIFAR twice": (nn.Sequential(Normalize(*CIFAR), HONEST["CIFAR"]), "with mean=0.47 std=0.25 undone"),
    "halves before raw pixels": (
        nn.Sequential(Normalize(0.5, 0.5), HONEST["raw pixels"]),
        "with mean=0.5 std=0.5 undone",
    ),
}


@pytest.mark.parametrize(("network", "named"), DEFECTS.values(), ids=DEFECTS.keys())
def test_a_normalisation_that_is_missing_or_doubled_is_named(network: nn.Module, named: str) -> None:
    status, evidence = check(network)
    assert status == "failed"
    assert named in evidence


def test_a_few_images_decide_nothing() -> None:
    assert check(HONEST["halves"][1], size=10)[0] == "passed"
