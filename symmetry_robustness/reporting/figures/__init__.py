"""Figures, drawn by matplotlib from plain arrays, in the size in which they are printed."""

from symmetry_robustness.reporting.figures.examples import magnified_difference, outcome_name, side_by_side
from symmetry_robustness.reporting.figures.from_report import report_figures
from symmetry_robustness.reporting.figures.style import COLORS, MARKERS, as_pixels, save_figure

__all__ = [
    "COLORS",
    "MARKERS",
    "as_pixels",
    "magnified_difference",
    "outcome_name",
    "report_figures",
    "save_figure",
    "side_by_side",
]
