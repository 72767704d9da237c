"""Adversarial training on PGD images."""

from dataclasses import dataclass
from typing import final

from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.attacks.norms import NormName, find_norm
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.attacked import PGDImages


@final
@checked
@dataclass(frozen=True)
class PGDTraining(PGDImages):
    """Cross-entropy of PGD images alone.

    Source: arXiv 1706.06083; steps and step size: arXiv 2002.11569, whose script crafts in training mode.

    Args:
        epsilon: radius in pixel units, number or fraction; 0 is cross-entropy.
        relative_step_size: length of a step as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
        steps: of PGD.
        norm: "linf", "l2" or "l1".
        random_start: begin at a uniform draw from the ball.
    """

    norm: NormName = "linf"
    random_start: bool = True

    def __post_init__(self) -> None:
        find_norm(self.norm)
        super().__post_init__()

    @property
    def attack_norm(self) -> NormName:
        """The setting."""
        return self.norm

    @property
    def rule(self) -> PGD:
        """PGD."""
        return PGD(self.steps, relative_step_size=self.relative_step_size, random_start=self.random_start)

    @property
    def threat(self) -> ThreatModel:
        """The ball of the norm."""
        return ThreatModel(self.norm, float(self.epsilon))
