"""N-FGSM: one step from strong noise, without projection."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.training.objectives.ascent import Ascent, uniform
from symmetry_robustness.training.objectives.base import (
    Mode,
    Passes,
    check_mode,
    check_positive,
    check_weight,
    craft,
    read_epsilon,
)


@dataclass(frozen=True)
class NFGSM:
    """Cross-entropy of images with uniform noise and one step of FGSM, which may leave the ball but not [0, 1].

    Source: arXiv 2202.01181, alg. 1, whose script crafts in training mode.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; 0 is cross-entropy.
        noise: largest noise as a multiple of epsilon.
        relative_step_size: length of the step as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
    """

    epsilon: float | str = "8/255"
    noise: float = 2.0
    relative_step_size: float = 1.0
    crafted_in: Mode = "training"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", read_epsilon(self.epsilon))
        check_weight("noise", self.noise)
        check_positive("relative_step_size", self.relative_step_size)
        check_mode(self.crafted_in)

    @property
    def passes(self) -> Passes:
        """One for the step, one to train."""
        return (2, 2) if self.epsilon else (1, 1)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the attacked images."""
        if self.epsilon:
            noise, length = self.noise * float(self.epsilon), self.relative_step_size * float(self.epsilon)
            widest = ThreatModel("linf", noise + length)  # holds all that noise and step can reach
            rule = Ascent(steps=1, length=length, noise=uniform(noise))
            images = craft(network, images, labels, widest, rule, self.crafted_in)
        logits = network(images)
        return F.cross_entropy(logits, labels), logits
