"""Attacks, measures and scores see a network in float32, whatever training was allowed."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD, LibraryAttack
from symmetry_robustness.precision import float32
from symmetry_robustness.robustness import (
    Clever,
    EquivarianceError,
    EvaluationProtocol,
    GradientNorm,
    MinimalDistance,
    RemovalTolerance,
    evaluate_robustness,
)

BACKENDS: dict[str, Any] = {
    "cudnn.conv": torch.backends.cudnn.conv,
    "cudnn.rnn": torch.backends.cudnn.rnn,
    "cuda.matmul": torch.backends.cuda.matmul,
    "mkldnn.conv": torch.backends.mkldnn.conv,
    "mkldnn.matmul": torch.backends.mkldnn.matmul,
}


def precisions() -> dict[str, str]:
    return {name: backend.fp32_precision for name, backend in BACKENDS.items()}


def older() -> tuple[bool, str] | None:
    try:
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def newer_switch(place: Any, precision: str) -> None:
    place.fp32_precision = precision


CHOICES: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "fast products": lambda: torch.set_float32_matmul_precision("medium"),
    "TF32 in products": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "newer switch of everything": lambda: newer_switch(torch.backends, "tf32"),
    "newer switch of convolutions": lambda: newer_switch(torch.backends.cudnn.conv, "ieee"),
    "newer switch of the CPU": lambda: newer_switch(torch.backends.mkldnn.conv, "bf16"),
}


@pytest.fixture(params=CHOICES)
def chosen(request: pytest.FixtureRequest) -> Iterator[None]:
    """Settings that a user may have chosen before."""
    before = precisions()
    CHOICES[request.param]()
    yield
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for name, backend in BACKENDS.items():
        backend.fp32_precision = before[name]
    assert precisions() == before
    assert older() == (True, "highest")


@pytest.mark.usefixtures("chosen")
def test_exact_inside_and_as_before_outside() -> None:
    before = precisions(), older()
    with torch.autocast("cpu", torch.bfloat16):
        with float32(torch.device("cpu")), float32(torch.device("cpu")):
            assert set(precisions().values()) <= {"ieee", "none"}
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (precisions(), older()) == before


class Witness(nn.Module):
    """A network that notes with which precisions it is passed, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
        self.seen: set[str] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen |= set(precisions().values())
        if images.requires_grad:
            images.register_hook(lambda gradient: self.seen.update(precisions().values()))
        logits: Tensor = self.layers(images)
        return logits


def test_everything_that_is_measured_is_exact() -> None:
    assert precisions()["cudnn.conv"] == "tf32"  # torch's default, without which this test shows nothing
    network, images = Witness().eval(), torch.rand(6, 3, 8, 8)
    labels = network(images).argmax(1)
    network.seen.clear()
    attacks = {"fgsm": FGSM(), "pgd": PGD(steps=2), "library": LibraryAttack("PGD", steps=2)}
    measures = {
        "norm": GradientNorm(),
        "distance": MinimalDistance(),
        "removal": RemovalTolerance(),
        "turns": EquivarianceError(),
    }
    protocol = EvaluationProtocol(
        attacks=attacks, epsilons=[0.01], clever=Clever(num_batches=2, samples_per_batch=4), measures=measures
    )
    report = evaluate_robustness(network, images, labels, protocol)
    assert len(report.measures["clever"]["value"])
    assert network.seen
    assert network.seen <= {"ieee", "none"}
