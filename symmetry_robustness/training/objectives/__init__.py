"""Training objectives: cross-entropy, adversarial training, and penalties on gradients and on symmetry."""

from symmetry_robustness.training.objectives.base import Objective
from symmetry_robustness.training.objectives.clean_and_fgsm import CleanAndFGSM
from symmetry_robustness.training.objectives.cross_entropy import CrossEntropy
from symmetry_robustness.training.objectives.fgsm_rs import FGSMRandomStart
from symmetry_robustness.training.objectives.n_fgsm import NFGSM
from symmetry_robustness.training.objectives.pgd_at import PGDTraining
from symmetry_robustness.training.objectives.trades import TRADES

__all__ = ["NFGSM", "TRADES", "CleanAndFGSM", "CrossEntropy", "FGSMRandomStart", "Objective", "PGDTraining"]
