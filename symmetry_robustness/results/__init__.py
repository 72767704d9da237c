"""Results of an evaluation, without torch: report, soundness checks, files, names; written once, read by everybody."""

from symmetry_robustness.results.checks import Check, Status
from symmetry_robustness.results.plots import Curve, Distribution, Panel, Plot
from symmetry_robustness.results.report import Estimate, RobustnessReport

__all__ = ["Check", "Curve", "Distribution", "Estimate", "Panel", "Plot", "RobustnessReport", "Status"]
