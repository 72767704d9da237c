"""How robust a network is, and whether to believe it: evaluator, CLEVER, other measures, soundness checks, report."""

from symmetry_robustness.results import Check, Estimate, RobustnessReport
from symmetry_robustness.robustness.attack_batch import Progress
from symmetry_robustness.robustness.evaluate import evaluate_robustness
from symmetry_robustness.robustness.measures.base import Measure, MeasureInputs
from symmetry_robustness.robustness.measures.certified_radius import CertifiedRadius
from symmetry_robustness.robustness.measures.clever import Clever, CleverScores
from symmetry_robustness.robustness.measures.detection import Detection, Detector
from symmetry_robustness.robustness.measures.equivariance import EquivarianceError
from symmetry_robustness.robustness.measures.gradient_norm import GradientNorm
from symmetry_robustness.robustness.measures.layer_inconsistency import LayerInconsistency
from symmetry_robustness.robustness.measures.minimal_distance import MinimalDistance
from symmetry_robustness.robustness.measures.orbit_inconsistency import OrbitInconsistency
from symmetry_robustness.robustness.measures.pixel_removal import RemovalTolerance
from symmetry_robustness.robustness.measures.smoothing import RandomizedSmoothing
from symmetry_robustness.robustness.protocol import EvaluationProtocol
from symmetry_robustness.robustness.sharding import Worker, evaluate_in_shards
from symmetry_robustness.robustness.transfer import Source, Transfer

# The name before, for one release.
Symmetry = EquivarianceError

__all__ = [
    "CertifiedRadius",
    "Check",
    "Clever",
    "CleverScores",
    "Detection",
    "Detector",
    "EquivarianceError",
    "Estimate",
    "EvaluationProtocol",
    "GradientNorm",
    "LayerInconsistency",
    "Measure",
    "MeasureInputs",
    "MinimalDistance",
    "OrbitInconsistency",
    "Progress",
    "RandomizedSmoothing",
    "RemovalTolerance",
    "RobustnessReport",
    "Source",
    "Symmetry",
    "Transfer",
    "Worker",
    "evaluate_in_shards",
    "evaluate_robustness",
]
