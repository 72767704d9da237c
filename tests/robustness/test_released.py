"""The released protocols re-enact plain loops of the released kind, and no report of theirs looks like a sound one."""

import dataclasses

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from symmetry_robustness import load_config
from symmetry_robustness.attacks import PGD
from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.models import export
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness

NAMES = ("standard", "parallel", "cascaded", "weighted", "rotation_scale", "fully_equivariant")
# The smallest epsilons, at which a tiny network still has something to lose.
SMALL = slice(3)


def protocol(name: str) -> EvaluationProtocol:
    config = load_config("evaluate", [f"robustness=released_{name}", "checkpoint=unused"])
    found: EvaluationProtocol = instantiate(config.robustness, _convert_="all")
    return found


@pytest.fixture(scope="module")
def body() -> nn.Sequential:
    """A small network on images in [-1, 1], with batch norms that have seen some."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5))
    for _ in range(20):
        network(2 * torch.rand(64, 3, 8, 8) - 1)
    with torch.no_grad():  # all classes equally likely, so that small changes matter
        network[-1].bias -= network.eval()(2 * torch.rand(256, 3, 8, 8) - 1).mean(0)
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((40, 3, 8, 8), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def labels(body: nn.Sequential, images: Tensor) -> Tensor:
    with torch.no_grad():
        predictions = body(2 * images - 1).argmax(1)
    predictions[::5] = (predictions[::5] + 1) % 5
    return predictions


def plain_loop(
    network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, step: float, count: int, low: float
) -> Tensor:
    """Whether each image stays correctly classified, everything in normalised units [-1, 1]."""
    correct = []
    for clean, targets in zip(images.split(16), labels.split(16), strict=True):
        attacked = clean.clone()
        for _ in range(count):
            attacked = attacked.detach().requires_grad_()
            loss = cross_entropy(network(attacked), targets)
            (gradient,) = torch.autograd.grad(loss, attacked)
            moved = attacked.detach() + step * gradient.sign()
            attacked = torch.clamp(clean + torch.clamp(moved - clean, -epsilon, epsilon), low, 1)
        with torch.no_grad():
            correct.append(network(attacked).argmax(1) == targets)
    return torch.cat(correct)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


@pytest.mark.parametrize(
    ("name", "factor"), [("standard", 1), ("weighted", 1), ("rotation_scale", 1), ("weighted", 500), ("standard", 500)]
)
def test_re_enactment_equals_a_plain_loop(
    name: str, factor: float, body: nn.Sequential, images: Tensor, labels: Tensor
) -> None:
    body = nn.Sequential(*body, Times(factor))  # large factors saturate the softmax, whose rounding a script suffers
    released = protocol(name)
    short = dataclasses.replace(released, epsilons=released.grid[SMALL], batch_size=16)
    network = export(nn.Sequential(Normalize(0.5, 0.5), *body))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = evaluate_robustness(network, images, labels, short)
    plain = export(body)
    if name == "rotation_scale":
        plain.train()
    low = 0.0 if name == "standard" else -1.0
    curves = []
    for epsilon in np.arange(0.01, 0.155, 0.01)[SMALL]:
        for attack, step, count in (("fgsm", epsilon, 1), ("pgd", 0.01, 40)):
            expected = plain_loop(plain, 2 * images - 1, labels, epsilon, step, count, low)
            found = report.correct(attack, epsilon / 2)
            # Half lengths in other units round otherwise, which may turn an image on the very border.
            assert (found != expected.numpy()).sum() <= 1
            curves.append(report.accuracy(attack, epsilon / 2).value)
    assert len(set(curves)) > 1
    assert not any(layer.training for layer in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_no_report_looks_like_a_sound_one(name: str, body: nn.Sequential, images: Tensor, labels: Tensor) -> None:
    short = dataclasses.replace(protocol(name), epsilons=protocol(name).grid[-1:])
    network = export(nn.Sequential(Normalize(0.5, 0.5), *body))
    statuses = {check.name: check.status for check in evaluate_robustness(network, images, labels, short).checks}
    failed = {check for check, status in statuses.items() if status == "failed"}
    if name in ("rotation_scale", "fully_equivariant"):
        assert {"protocol_settings", "evaluation_mode", "batch_independent"} <= failed
    elif name == "weighted":
        assert statuses["protocol_settings"] == "warned"
    else:
        assert {"protocol_settings", "images_in_bounds", "inside_ball"} <= failed


def test_published_lengths_are_kept() -> None:
    for name in NAMES:
        scale = 0.2009 if name == "fully_equivariant" else 0.5
        np.testing.assert_allclose(protocol(name).grid, scale * np.arange(0.01, 0.155, 0.01), rtol=1e-3)
        pgd = protocol(name).attacks["pgd"]
        assert isinstance(pgd, PGD)
        assert (pgd.steps, pgd.step_size, pgd.random_start, pgd.iterate) == (40, 0.01 * scale, False, "last")


def test_counting_what_lies_outside_is_for_returned_results_only() -> None:
    with pytest.raises(UserError, match="judge=returned"):
        EvaluationProtocol(outside="count")
    with pytest.raises(UserError, match="mode must be"):
        EvaluationProtocol(mode="training")  # type: ignore[arg-type]
