"""Fast adversarial training: one step from a random start."""

from dataclasses import dataclass
from typing import final

from symmetry_robustness.attacks import PGD
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.attacked import AttackedImages


@final
@checked
@dataclass(frozen=True)
class FGSMRandomStart(AttackedImages):
    """Cross-entropy of images attacked by one long step from a uniform draw in the ball, projected back.

    Source: arXiv 2001.03994, alg. 3, whose script crafts in training mode.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; 0 is cross-entropy.
        relative_step_size: length of the step as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
    """

    relative_step_size: float = 1.25

    @property
    def rule(self) -> PGD:
        """One step of PGD."""
        return PGD(1, relative_step_size=self.relative_step_size, random_start=True)
