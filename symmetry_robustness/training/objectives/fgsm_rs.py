"""Fast adversarial training: one step from a random start."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.training.objectives.base import Mode, Passes, check_mode, check_positive, craft, read_epsilon


@dataclass(frozen=True)
class FGSMRandomStart:
    """Cross-entropy of images attacked by one long step from a uniform draw in the ball, projected back.

    Source: arXiv 2001.03994, alg. 3, whose script crafts in training mode.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; 0 is cross-entropy.
        relative_step_size: length of the step as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
    """

    epsilon: float | str = "8/255"
    relative_step_size: float = 1.25
    crafted_in: Mode = "training"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", read_epsilon(self.epsilon))
        check_positive("relative_step_size", self.relative_step_size)
        check_mode(self.crafted_in)

    @property
    def passes(self) -> Passes:
        """One for the step, one to train."""
        return (2, 2) if self.epsilon else (1, 1)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the attacked images."""
        if self.epsilon:
            rule = PGD(1, relative_step_size=self.relative_step_size, random_start=True)
            images = craft(network, images, labels, ThreatModel("linf", float(self.epsilon)), rule, self.crafted_in)
        logits = network(images)
        return F.cross_entropy(logits, labels), logits
