"""A penalty on the Jacobian, and on the input gradient outside of what is salient."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import (
    Mode,
    Passes,
    check_share,
    check_weight,
    gradient_by_images,
    half_square,
)
from symmetry_robustness.training.objectives.jacobian import jacobian_penalty


@final
@checked
@dataclass(frozen=True)
class JSIGR:
    """Cross-entropy, the penalty of `Jacobian`, and that of `InputGradient` on the pixels that are least salient.

    A reconstruction: arXiv 2207.13036 (J-SIGR) states the idea, a penalty on the Jacobian and a selective one on input
    gradients, but its formula, settings and code are not public. Here the saliency of a pixel is the size of the
    gradient of its cross-entropy, summed over channels (the paper's is found by perturbations), the most salient ones
    are left alone, and which they are is taken for given when gradients are computed.

    Args:
        jacobian_strength: weight of half the squared norm of the Jacobian of the logits.
        projections: directions of its estimate for each image and step, at most the number of classes.
        gradient_strength: weight of half the squared norm of the gradient at the pixels chosen.
        kept: share of the pixels, the most salient ones, at which the gradient is left alone.
    """

    jacobian_strength: float = 0.01
    projections: int = 1
    gradient_strength: float = 0.1
    kept: float = 0.5

    def __post_init__(self) -> None:
        check_weight("jacobian_strength", self.jacobian_strength)
        check_count("projections", self.projections)
        check_weight("gradient_strength", self.gradient_strength)
        check_share("kept", self.kept)

    @property
    def passes(self) -> Passes:
        """Each projection and the gradient are differentiated again by two passes; one backward pass trains."""
        gradients = (self.projections if self.jacobian_strength else 0) + (1 if self.gradient_strength else 0)
        return 1, 2 * gradients + 1

    @property
    def second_derivatives(self) -> Mode | None:
        """In training mode."""
        return "training" if self.jacobian_strength or self.gradient_strength else None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images.

        Raises:
            UserError: there are more projections than classes.
        """
        variable = images.detach().requires_grad_(self.second_derivatives is not None)
        logits = network(variable)
        loss = F.cross_entropy(logits, labels)
        if self.jacobian_strength:
            loss = loss + self.jacobian_strength * jacobian_penalty(logits, variable, self.projections)
        if self.gradient_strength:
            _, gradient = gradient_by_images(logits, labels, variable)
            chosen = ~most_salient(gradient.detach().abs().sum(1, keepdim=True), self.kept)
            loss = loss + self.gradient_strength * half_square(gradient * chosen).mean()
        return loss, logits


def most_salient(saliency: Tensor, share: float) -> Tensor:
    """Whether each value belongs to the given share of the largest of its image; saliency and result (B, ...)."""
    flat = saliency.flatten(1)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    places = flat.topk(round(share * flat.shape[1]), dim=1).indices
    return chosen.scatter_(1, places, True).reshape(saliency.shape)
