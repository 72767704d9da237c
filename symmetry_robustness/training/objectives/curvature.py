"""CURE: a penalty on the curvature of the loss."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.precision import float32
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import (
    Mode,
    Passes,
    check_positive,
    check_weight,
    crafting,
    input_gradient,
)


@checked
@dataclass(frozen=True)
class Curvature:
    """Cross-entropy plus how much each image's gradient changes, in l2 norm, over a step along its signs.

    The penalty is that of the network in evaluation mode, in float32. The source's script has weight 4 and step 3 for
    pixels divided by their standard deviation, about 0.2, hence 0.8 and 0.6 in pixel units; it fine-tunes with them a
    network that is already trained.

    Source: arXiv 1811.09716; the norm is not squared, as in its script.

    Args:
        strength: weight of the penalty; 0 is cross-entropy.
        step: Euclidean length of the step, in pixel units.
    """

    strength: float = 0.8
    step: float = 0.6

    def __post_init__(self) -> None:
        check_weight("strength", self.strength)
        check_positive("step", self.step)

    @property
    def passes(self) -> Passes:
        """Two gradients, each differentiated again by two passes, and one pass to train."""
        return (3, 7) if self.strength else (1, 1)

    @property
    def second_derivatives(self) -> Mode | None:
        """In evaluation mode."""
        return "evaluation" if self.strength else None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        logits = network(images)  # first, because it changes the statistics that the graphs below keep
        loss = F.cross_entropy(logits, labels)
        if not self.strength:
            return loss, logits
        return loss + self.strength * self._penalty(network, images, labels).mean(), logits

    def _penalty(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with crafting(network), float32(images.device):
            _, _, gradient = input_gradient(network, images, labels)
            direction = NORMS["l2"].steepest_direction(gradient.detach().sign())
            _, _, moved = input_gradient(network, images + self.step * direction, labels)
        return NORMS["l2"].length(moved - gradient)
