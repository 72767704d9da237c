"""Figures of what the measures of a report found."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from symmetry_robustness.reporting.figures import (
    Errors,
    Figures,
    Line,
    accuracy_circle,
    accuracy_over_scales,
    equivariance_errors,
    removal_panel,
)
from symmetry_robustness.robustness import RobustnessReport
from symmetry_robustness.robustness.measure import Arrays
from symmetry_robustness.robustness.removal import removal_ranks, remove

# The exact turns that Symmetry takes, in degrees.
_QUARTERS: Final = np.array([90.0, 180.0, 270.0])


def measure_figures(report: RobustnessReport) -> Figures:
    """What can be shown of each measure, named by it, e.g. `removal`, `symmetry-circle`."""
    figures: Figures = {}
    for name in report.measures:
        draw = _DRAWN.get(report.settings["measures"][name]["class"])
        if draw is not None:
            figures |= draw(report, name)
    return figures


def _removal(report: RobustnessReport, name: str) -> Figures:
    """The images that examples were kept of, and what is left of them."""
    clean = report.examples.get("clean", np.zeros((0,), dtype=np.float32))
    measured = report.measures[name]
    kept = np.sort(report.indices)[: len(clean)]
    numbers, rows, measured_rows = np.intersect1d(kept, measured["indices"], return_indices=True)
    if not len(numbers):
        return {}
    images, shares = torch.from_numpy(clean[rows]), measured["value"][measured_rows]
    left = remove(images, torch.from_numpy(shares), removal_ranks(images, numbers, report.settings["seed"]))
    return {name: removal_panel(images.numpy(), left.numpy(), shares)}


def _symmetry(report: RobustnessReport, name: str) -> Figures:
    """Accuracy over the circle and over scales, and errors of logits and layers."""
    settings, found = report.settings["measures"][name], report.measures[name]
    positions = {"turn": _QUARTERS, "rotation": np.array(settings["angles"]), "scale": np.array(settings["scales"])}
    curves = [family for family in ("rotation", "scale") if len(positions[family]) > 2]  # fewer make no curve
    figures: Figures = {}
    if "rotation" in curves:
        figures[f"{name}-circle"] = accuracy_circle(_shares(found, "rotation", positions["rotation"], 0.0))
    if "scale" in curves:
        figures[f"{name}-scales"] = accuracy_over_scales(_shares(found, "scale", positions["scale"], 1.0))
    families = {family: _errors(found, family, "logits", positions[family]) for family in curves}
    places = {}
    for family, values in positions.items():
        prefix = f"{family}.error."
        layers = [array.removeprefix(prefix) for array in found if array.startswith(prefix)]
        if len(layers) > 1:  # the logits come last in the network
            layers = [*(layer for layer in layers if layer != "logits"), "logits"]
            places[family] = {layer: _errors(found, family, layer, values) for layer in layers}
    if families or places:
        figures[f"{name}-error"] = equivariance_errors(families, places)
    return figures


def _shares(found: Arrays, family: str, positions: npt.NDArray[np.float64], still: float) -> dict[str, Line]:
    """Lines of accuracy and of kept predictions; where nothing moves is the disc as it is."""
    accuracy, same = found[f"{family}.correct"], found[f"{family}.consistent"]
    unmoved = found["disc.correct"]
    return {
        "accuracy": _with(_line(positions, accuracy), still, unmoved),
        "same prediction": _with(_line(positions, same), still, np.ones_like(unmoved)),
    }


def _errors(found: Arrays, family: str, place: str, positions: npt.NDArray[np.float64]) -> Errors:
    """Error of one place, and its floor, which exact turns do not have."""
    floor = found.get(f"{family}.floor.{place}")
    nothing = Line(*np.zeros((3, 0)))
    error = _line(positions, found[f"{family}.error.{place}"])
    return Errors(error, nothing if floor is None else _line(positions, floor))


def _line(positions: npt.NDArray[np.float64], values: npt.NDArray[np.generic]) -> Line:
    """Means over images of (N, T); entries that are NaN are left out, and so are columns of nothing else."""
    numbers = values.astype(np.float64)
    count = (~np.isnan(numbers)).sum(0)
    numbers, positions = numbers[:, count > 0], positions[count > 0]
    return Line(positions, np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0) / np.sqrt(count[count > 0]))


def _with(line: Line, position: float, values: npt.NDArray[np.generic]) -> Line:
    """A line with one more point, that of the images which were not moved, in its place."""
    more = _line(np.array([position]), values[:, None])
    joined = [np.append(column, extra) for column, extra in zip(line, more, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return Line(*(column[order] for column in joined))


_DRAWN: Final[dict[str, Callable[[RobustnessReport, str], Figures]]] = {
    "RemovalTolerance": _removal,
    "Symmetry": _symmetry,
}
