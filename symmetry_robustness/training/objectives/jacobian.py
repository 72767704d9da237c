"""A penalty on the Jacobian of the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import Mode, Passes, check_weight


@checked
@dataclass(frozen=True)
class Jacobian:
    """Cross-entropy plus half the squared Frobenius norm of the Jacobian of the logits, estimated by projections.

    Each image draws orthonormal directions in the space of logits, so that the estimate is unbiased with any number of
    them and exact with as many as there are classes. (The source draws them independently; with one it is the same.)

    Source: arXiv 1908.02729, alg. 1.

    Args:
        strength: weight of the penalty; 0 is cross-entropy.
        projections: directions for each image and step, at most the number of classes.
    """

    strength: float = 0.01
    projections: int = 1

    def __post_init__(self) -> None:
        check_weight("strength", self.strength)
        check_count("projections", self.projections)

    @property
    def passes(self) -> Passes:
        """Each projection is a gradient and is differentiated again; one backward pass trains."""
        return (1, 2 * self.projections + 1) if self.strength else (1, 1)

    @property
    def second_derivatives(self) -> Mode | None:
        """In training mode."""
        return "training" if self.strength else None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images.

        Raises:
            UserError: there are more projections than classes.
        """
        if not self.strength:
            logits = network(images)
            return F.cross_entropy(logits, labels), logits
        variable = images.detach().requires_grad_()
        logits = network(variable)
        penalty = jacobian_penalty(logits, variable, self.projections)
        return F.cross_entropy(logits, labels) + self.strength * penalty, logits


def jacobian_penalty(logits: Tensor, images: Tensor, projections: int) -> Tensor:
    """Half the squared norm, (), of the Jacobian of logits (B, K) by the images that they were computed from.

    Estimated by so many projections; its mean over images can be differentiated.

    Raises:
        UserError: there are more projections than classes.
    """
    count, classes = logits.shape
    if projections > classes:
        raise UserError(f"projections must be at most the {classes} classes, got {projections}; lower it")
    directions = torch.linalg.qr(torch.randn(count, classes, projections)).Q.to(logits.device)
    total = torch.zeros((), device=logits.device)
    for direction in directions.unbind(2):
        projected = (direction * logits).sum()
        (gradient,) = torch.autograd.grad(projected, images, create_graph=True)
        total = total + gradient.square().sum()
    return total * classes / (2 * projections * count)
