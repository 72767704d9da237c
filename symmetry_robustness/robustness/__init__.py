"""How robust a network is, and whether to believe it: the evaluator, CLEVER, soundness checks, the report."""

from symmetry_robustness.robustness.clever import Clever, CleverScores
from symmetry_robustness.robustness.evaluation import evaluate_robustness
from symmetry_robustness.robustness.judging import Progress
from symmetry_robustness.robustness.protocol import EvaluationProtocol
from symmetry_robustness.robustness.removal import gradient_norm, removal_tolerance
from symmetry_robustness.robustness.report import Estimate, RobustnessReport
from symmetry_robustness.robustness.shares import Turn, evaluate_in_shares
from symmetry_robustness.robustness.soundness import Check

__all__ = [
    "Check",
    "Clever",
    "CleverScores",
    "Estimate",
    "EvaluationProtocol",
    "Progress",
    "RobustnessReport",
    "Turn",
    "evaluate_in_shares",
    "evaluate_robustness",
    "gradient_norm",
    "removal_tolerance",
]
