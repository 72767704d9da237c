"""N-FGSM: one step from strong noise, without projection."""

from dataclasses import dataclass
from typing import final

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.ascent import Ascent, uniform
from symmetry_robustness.training.objectives.attacked import AttackedImages
from symmetry_robustness.training.objectives.base import check_weight


@final
@checked
@dataclass(frozen=True)
class NFGSM(AttackedImages):
    """Cross-entropy of images with uniform noise and one step of FGSM, which may leave the ball but not [0, 1].

    Source: arXiv 2202.01181, alg. 1, whose script crafts in training mode.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; 0 is cross-entropy.
        relative_step_size: length of the step as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
        noise: largest noise as a multiple of epsilon.
    """

    noise: float = 2.0

    def __post_init__(self) -> None:
        check_weight("noise", self.noise)
        super().__post_init__()

    @property
    def rule(self) -> Ascent:
        """One step from the noise."""
        epsilon = float(self.epsilon)
        return Ascent(steps=1, length=self.relative_step_size * epsilon, noise=uniform(self.noise * epsilon))

    @property
    def threat(self) -> ThreatModel:
        """All that noise and step can reach."""
        return ThreatModel("linf", (self.noise + self.relative_step_size) * float(self.epsilon))
