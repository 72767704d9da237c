"""Figures of what the measures of a report found."""

import numpy as np

from symmetry_robustness.reporting import measure_figures as drawn
from symmetry_robustness.reporting.figures import Figures
from symmetry_robustness.reporting.measure_figures import Shown
from symmetry_robustness.robustness import RobustnessReport
from symmetry_robustness.robustness.measures.pixel_removal import removed


def measure_figures(report: RobustnessReport) -> Figures:
    """What can be shown of each measure, named by it, e.g. `removal`, `symmetry-circle`."""
    clean = report.examples.get("clean", np.zeros((0,), dtype=np.float32))
    shown = Shown(clean, np.sort(report.indices)[: len(clean)])
    return drawn.measure_figures(report.settings, report.measures, shown, removed)
