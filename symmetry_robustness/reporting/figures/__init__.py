"""Figures, drawn by matplotlib from plain arrays, in the size in which they are printed."""

from symmetry_robustness.reporting.figures.curves import Curve, epsilon_curves
from symmetry_robustness.reporting.figures.examples import (
    attack_panel,
    magnified_difference,
    outcome_name,
    side_by_side,
)
from symmetry_robustness.reporting.figures.measures import measure_figures
from symmetry_robustness.reporting.figures.style import COLORS, MARKERS, Figures, as_pixels, save_figure

__all__ = [
    "COLORS",
    "MARKERS",
    "Curve",
    "Figures",
    "as_pixels",
    "attack_panel",
    "epsilon_curves",
    "magnified_difference",
    "measure_figures",
    "outcome_name",
    "save_figure",
    "side_by_side",
]
