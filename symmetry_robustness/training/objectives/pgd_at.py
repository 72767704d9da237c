"""Adversarial training on PGD images."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.attacks.norms import NormName, find_norm
from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.training.objectives.base import Mode, Passes, check_mode, check_positive, craft, read_epsilon


@dataclass(frozen=True)
class PGDTraining:
    """Cross-entropy of PGD images alone.

    Source: arXiv 1706.06083; steps and step size: arXiv 2002.11569, whose script crafts in training mode.

    Args:
        epsilon: radius in pixel units, number or fraction; 0 is cross-entropy.
        norm: "linf", "l2" or "l1".
        steps: of PGD.
        relative_step_size: length of a step as a fraction of epsilon.
        random_start: begin at a uniform draw from the ball.
        crafted_in: mode of the network while attacked images are made.
    """

    epsilon: float | str = "8/255"
    norm: NormName = "linf"
    steps: int = 10
    relative_step_size: float = 0.25
    random_start: bool = True
    crafted_in: Mode = "training"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", read_epsilon(self.epsilon, self.norm))
        find_norm(self.norm)
        check_count("steps", self.steps)
        check_positive("relative_step_size", self.relative_step_size)
        check_mode(self.crafted_in)

    @property
    def passes(self) -> Passes:
        """One for each step, one to train."""
        return (self.steps + 1, self.steps + 1) if self.epsilon else (1, 1)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the attacked images."""
        if self.epsilon:
            rule = PGD(self.steps, relative_step_size=self.relative_step_size, random_start=self.random_start)
            images = craft(network, images, labels, ThreatModel(self.norm, float(self.epsilon)), rule, self.crafted_in)
        logits = network(images)
        return F.cross_entropy(logits, labels), logits
