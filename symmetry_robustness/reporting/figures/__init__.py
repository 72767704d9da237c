"""Figures, drawn by matplotlib from plain arrays, in the size in which they are printed."""

from symmetry_robustness.reporting.figures.from_report import report_figures
from symmetry_robustness.reporting.figures.style import COLORS, MARKERS, as_pixels, save_figure

__all__ = ["COLORS", "MARKERS", "as_pixels", "report_figures", "save_figure"]
