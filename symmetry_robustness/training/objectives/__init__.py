"""Training objectives: cross-entropy, adversarial training, and penalties on gradients, features and symmetry."""

from symmetry_robustness.training.objectives.adaptive_features import AdaptiveFeatures
from symmetry_robustness.training.objectives.attribution_guided import AttributionGuided
from symmetry_robustness.training.objectives.augmix import AugMixConsistency
from symmetry_robustness.training.objectives.awp import AdversarialWeightPerturbation
from symmetry_robustness.training.objectives.base import AdversarialObjective, Objective
from symmetry_robustness.training.objectives.clean_and_fgsm import CleanAndFGSM
from symmetry_robustness.training.objectives.cross_entropy import CrossEntropy
from symmetry_robustness.training.objectives.curvature import Curvature
from symmetry_robustness.training.objectives.fgsm_rs import FGSMRandomStart
from symmetry_robustness.training.objectives.free_at import FreeTraining
from symmetry_robustness.training.objectives.gradalign import GradAlign
from symmetry_robustness.training.objectives.hsic_bottleneck import HSICBottleneck
from symmetry_robustness.training.objectives.input_gradient import InputGradient
from symmetry_robustness.training.objectives.j_sigr import JSIGR
from symmetry_robustness.training.objectives.jacobian import Jacobian
from symmetry_robustness.training.objectives.joint_space import JointSpace
from symmetry_robustness.training.objectives.learn_from_past import LearnFromPast
from symmetry_robustness.training.objectives.mart import MART
from symmetry_robustness.training.objectives.metric_learning import MetricLearning
from symmetry_robustness.training.objectives.n_fgsm import NFGSM
from symmetry_robustness.training.objectives.orbit_consistency import OrbitConsistency
from symmetry_robustness.training.objectives.pgd_at import PGDTraining
from symmetry_robustness.training.objectives.trades import TRADES

__all__ = [
    "JSIGR",
    "MART",
    "NFGSM",
    "TRADES",
    "AdaptiveFeatures",
    "AdversarialObjective",
    "AdversarialWeightPerturbation",
    "AttributionGuided",
    "AugMixConsistency",
    "CleanAndFGSM",
    "CrossEntropy",
    "Curvature",
    "FGSMRandomStart",
    "FreeTraining",
    "GradAlign",
    "HSICBottleneck",
    "InputGradient",
    "Jacobian",
    "JointSpace",
    "LearnFromPast",
    "MetricLearning",
    "Objective",
    "OrbitConsistency",
    "PGDTraining",
]
