"""Catastrophic overfitting: a network that withstands the one step it is trained on, and no attack of several."""

from typing import Final, NamedTuple

from symmetry_robustness.attacks import FGSM, PGD, ThreatModel
from symmetry_robustness.results.checks import Check
from symmetry_robustness.robustness import EvaluationProtocol

NAME: Final = "catastrophic_overfitting"
# Images of the training set: as many as in arXiv 2007.02617.
IMAGES: Final = 256
# Share of the images by which FGSM must lead, and share of its accuracy that PGD must leave.
_LEAD, _LEFT = 0.2, 0.5


class Watched(NamedTuple):
    """Accuracies on training images under FGSM and under PGD, and the radius."""

    fgsm: float
    pgd: float
    threat: ThreatModel

    @property
    def check(self) -> Check:
        """Warned where FGSM leaves many images that PGD takes."""
        overfitted = self.fgsm - self.pgd > _LEAD and self.pgd < _LEFT * self.fgsm
        evidence = (
            f"accuracy on training images at the objective's {self.threat.norm} {self.threat.epsilon:.4g}: "
            f"FGSM {self.fgsm:.1%}, PGD-10 {self.pgd:.1%}"
        )
        if overfitted:
            evidence += "; the training has overfitted to single steps, take a smaller epsilon or several steps"
        return Check.judged(NAME, evidence, warned=overfitted)

    @property
    def metrics(self) -> dict[str, float]:
        """By their names in loggers."""
        return {"train/robust/fgsm": self.fgsm, "train/robust/pgd": self.pgd}


def protocol(threat: ThreatModel, seed: int) -> EvaluationProtocol:
    """FGSM and PGD of ten steps from a random start, at the radius that an objective trains at."""
    attacks = {"fgsm": FGSM(), "pgd": PGD(10, random_start=True)}
    return EvaluationProtocol(attacks=attacks, norm=threat.norm, epsilons=[threat.epsilon], checks="cheap", seed=seed)
