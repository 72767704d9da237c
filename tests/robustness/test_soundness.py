from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness

PROTOCOL = EvaluationProtocol(attacks={"fgsm": FGSM(), "pgd": PGD(steps=5)}, epsilons=[0.02, 0.5])


class Function(nn.Module):
    """A function of a network's output or input as a network."""

    def __init__(self, network: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.network, images)


def statuses(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, str]:
    return {check.name: check.status for check in evaluate_robustness(network, images, labels, PROTOCOL).checks}


def test_sound_network_passes_every_check(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    found = statuses(network, images, labels)
    assert set(found.values()) == {"passed"}
    assert set(found) == {
        "evaluation_mode",
        "images_in_bounds",
        "deterministic_forward",
        "inside_ball",
        "finite_logits",
        "finite_gradients",
        "nonzero_gradients",
        "falls_with_epsilon",
        "iterative_at_least_single",
        "zero_at_largest",
    }


@pytest.mark.parametrize(
    ("defect", "check", "status"),
    [
        (lambda net, x: net(x) + 0.01 * torch.randn(len(x), 5), "deterministic_forward", "failed"),
        (lambda net, x: net(x.detach()), "nonzero_gradients", "failed"),
        (lambda net, x: net((x * 8).round() / 8), "nonzero_gradients", "failed"),
        (lambda net, x: net(x) / torch.where(x[:, 0, 0, :1] > 0.5, 0.0, 1.0), "finite_logits", "failed"),
        (lambda net, x: net(x) + (0 * x).sqrt().sum((1, 2, 3))[:, None], "finite_gradients", "failed"),
        (lambda net, x: net(x.detach()), "zero_at_largest", "warned"),
    ],
)
def test_planted_defects_are_found(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    defect: Callable[[nn.Module, Tensor], Tensor],
    check: str,
    status: str,
) -> None:
    assert statuses(Function(network, defect), images, labels)[check] == status


def test_training_mode_is_found(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    training = nn.Sequential(nn.BatchNorm2d(3), network)
    training[0].train()
    assert statuses(training, images, labels)["evaluation_mode"] == "failed"


def test_images_outside_the_bounds_are_found(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    assert statuses(network, 2 * images - 1, labels)["images_in_bounds"] == "failed"


def test_non_finite_logits_count_as_wrong_in_one_line(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    broken = Function(network, lambda net, x: net(x) * float("nan"))
    report = evaluate_robustness(broken, images, labels, PROTOCOL)
    assert report.clean_accuracy == 0
    check = {check.name: check for check in report.checks}["finite_logits"]
    assert check == ("finite_logits", "failed", "30 of 30 images have non-finite logits")
