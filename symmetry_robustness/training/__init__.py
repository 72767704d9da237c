"""Training with Lightning, and robustness measured while it runs."""

from symmetry_robustness.training.callback import RobustnessCallback
from symmetry_robustness.training.classifier import Classifier
from symmetry_robustness.training.objectives import CleanAndFGSM, CrossEntropy, Objective
from symmetry_robustness.training.weight_average import WeightAverage

__all__ = ["Classifier", "CleanAndFGSM", "CrossEntropy", "Objective", "RobustnessCallback", "WeightAverage"]
