"""A penalty on the gradient of the loss by the image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import (
    Mode,
    Passes,
    check_positive,
    check_weight,
    half_square,
    input_gradient,
)


@checked
@dataclass(frozen=True)
class InputGradient:
    """Cross-entropy plus a penalty on each image's gradient g: the l1 norm of g, or half the squared l2 norm.

    The l1 norm is what an linf attack of small radius gains per radius, so its weight compares with epsilon. Finite
    differences measure the slope along the steepest direction; with them a step is in float32 throughout.

    Source: double backward: arXiv 1711.09404; finite differences: arXiv 1905.11468.

    Args:
        strength: weight of the penalty; 0 is cross-entropy.
        norm: "l1" or "l2".
        method: "finite_difference" or "double_backward".
        step: Euclidean length of the step of finite differences, in pixel units.
    """

    strength: float = 0.1
    norm: Literal["l1", "l2"] = "l2"
    method: Literal["finite_difference", "double_backward"] = "finite_difference"
    step: float = 0.01

    def __post_init__(self) -> None:
        check_weight("strength", self.strength)
        check_positive("step", self.step)
        if self.norm not in ("l1", "l2"):
            raise UserError(f"norm must be l1 or l2, got {self.norm!r}; choose one of them")
        if self.method not in ("finite_difference", "double_backward"):
            raise UserError(f"method must be finite_difference or double_backward, got {self.method!r}; choose one")

    @property
    def passes(self) -> Passes:
        """One forward for each point; a gradient, and the two passes of its own or one for each point."""
        if not self.strength:
            return 1, 1
        return (1, 3) if self.method == "double_backward" else (2, 3)

    @property
    def second_derivatives(self) -> Mode | None:
        """Of double backward, in training mode."""
        return "training" if self.strength and self.method == "double_backward" else None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        if not self.strength:
            logits = network(images)
            return F.cross_entropy(logits, labels), logits
        if self.method == "double_backward":
            logits, _, gradient = input_gradient(network, images, labels)
            penalty = self._penalty(gradient)
        else:
            with float32(images.device):
                logits, penalty = self._by_finite_difference(network, images, labels)
        return F.cross_entropy(logits, labels) + self.strength * penalty.mean(), logits

    def _penalty(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1) if self.norm == "l1" else half_square(gradient)

    def _by_finite_difference(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        variable = images.detach().requires_grad_()
        logits = network(variable)
        losses = F.cross_entropy(logits, labels, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), variable, retain_graph=True)
        root = images[0].numel() ** 0.5  # the l1 norm is so many times the slope along the signs, of length 1
        direction = NORMS["l2"].steepest_direction(gradient if self.norm == "l2" else gradient.sign())
        moved = F.cross_entropy(network(images + self.step * direction), labels, reduction="none")
        slope = (moved - losses) / self.step
        return logits, (root * slope.abs() if self.norm == "l1" else slope.square() / 2)
