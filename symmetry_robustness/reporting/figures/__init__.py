"""Figures, drawn by matplotlib from plain arrays, in the size in which they are printed."""

from symmetry_robustness.reporting.figures.comparisons import (
    Bar,
    Pairs,
    bars,
    corruption_map,
    estimate_against_distance,
)
from symmetry_robustness.reporting.figures.curves import Curve, curve_grid, epsilon_curves
from symmetry_robustness.reporting.figures.examples import (
    attack_panel,
    epsilon_name,
    example_panel,
    magnified_difference,
    outcome_name,
    removal_panel,
    side_by_side,
)
from symmetry_robustness.reporting.figures.style import (
    COLORS,
    MARKERS,
    Figures,
    Line,
    as_pixels,
    line_with_errors,
    save_figure,
)
from symmetry_robustness.reporting.figures.symmetry import (
    Errors,
    accuracy_circle,
    accuracy_over_scales,
    equivariance_errors,
)

__all__ = [
    "COLORS",
    "MARKERS",
    "Bar",
    "Curve",
    "Errors",
    "Figures",
    "Line",
    "Pairs",
    "accuracy_circle",
    "accuracy_over_scales",
    "as_pixels",
    "attack_panel",
    "bars",
    "corruption_map",
    "curve_grid",
    "epsilon_curves",
    "epsilon_name",
    "equivariance_errors",
    "estimate_against_distance",
    "example_panel",
    "line_with_errors",
    "magnified_difference",
    "outcome_name",
    "removal_panel",
    "save_figure",
    "side_by_side",
]
