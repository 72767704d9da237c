"""How robust a network is, and whether to believe it: evaluator, CLEVER, other measures, soundness checks, report."""

from symmetry_robustness.robustness.clever import Clever, CleverScores
from symmetry_robustness.robustness.evaluation import evaluate_robustness
from symmetry_robustness.robustness.gradient_norm import GradientNorm, gradient_norm
from symmetry_robustness.robustness.judging import Progress
from symmetry_robustness.robustness.measure import Measure, Subject
from symmetry_robustness.robustness.minimal_distance import MinimalDistance
from symmetry_robustness.robustness.protocol import EvaluationProtocol
from symmetry_robustness.robustness.removal import RemovalTolerance, removal_tolerance
from symmetry_robustness.robustness.report import Estimate, RobustnessReport
from symmetry_robustness.robustness.shares import Turn, evaluate_in_shares
from symmetry_robustness.robustness.soundness import Check
from symmetry_robustness.robustness.symmetry import Symmetry

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
