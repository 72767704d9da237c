"""How robust a network is, and whether to believe it: evaluator, CLEVER, other measures, soundness checks, report."""

from symmetry_robustness.robustness.attack_batch import Progress
from symmetry_robustness.robustness.checks.derived import Check
from symmetry_robustness.robustness.evaluate import evaluate_robustness
from symmetry_robustness.robustness.measures.base import Measure, Subject
from symmetry_robustness.robustness.measures.clever import Clever, CleverScores
from symmetry_robustness.robustness.measures.equivariance import Symmetry
from symmetry_robustness.robustness.measures.gradient_norm import GradientNorm, gradient_norm
from symmetry_robustness.robustness.measures.minimal_distance import MinimalDistance
from symmetry_robustness.robustness.measures.pixel_removal import RemovalTolerance, removal_tolerance
from symmetry_robustness.robustness.protocol import EvaluationProtocol
from symmetry_robustness.robustness.report import Estimate, RobustnessReport
from symmetry_robustness.robustness.sharding import Turn, evaluate_in_shares

__all__ = [
    "Check",
    "Clever",
    "CleverScores",
    "Estimate",
    "EvaluationProtocol",
    "GradientNorm",
    "Measure",
    "MinimalDistance",
    "Progress",
    "RemovalTolerance",
    "RobustnessReport",
    "Subject",
    "Symmetry",
    "Turn",
    "evaluate_in_shares",
    "evaluate_robustness",
    "gradient_norm",
    "removal_tolerance",
]
