"""Figures of what the measures of one evaluation found, from the arrays of its report."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures import (
    Errors,
    Figures,
    Line,
    accuracy_circle,
    accuracy_over_scales,
    equivariance_errors,
    line_with_errors,
    removal_panel,
)

# What a measure found: array name -> (M, ...), the first axis being the image.
Arrays = Mapping[str, NDArray[Any]]
# Images (k, 3, H, W) of whose values shares (k,) are set to zero; of images of these numbers, under this seed.
Remove = Callable[[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64], int], NDArray[np.float32]]

# The exact turns that Symmetry takes, in degrees.
_QUARTERS: Final = np.array([90.0, 180.0, 270.0])


class Shown(NamedTuple):
    """The clean images (k, 3, H, W) that examples were kept of, and their numbers (k,)."""

    images: NDArray[np.float32]
    numbers: NDArray[np.int64]


def measure_figures(
    settings: Mapping[str, Any], measures: Mapping[str, Arrays], shown: Shown, remove: Remove
) -> Figures:
    """What can be shown of each measure, named by it, e.g. `removal`, `symmetry-circle`.

    Args:
        settings: of the protocol, as plain values.
        measures: measure -> arrays, "indices" being the numbers of its images.
        shown: images for the panel of removal tolerances.
        remove: sets values of them to zero as `RemovalTolerance` does.
    """
    figures: Figures = {}
    for name, found in measures.items():
        kind = settings.get("measures", {}).get(name, {"class": ""})  # files of early versions may not describe it
        if kind["class"] == "RemovalTolerance":
            figures |= _removal(name, found, shown, remove, settings["seed"])
        elif kind["class"] in ("Symmetry", "EquivarianceError"):
            figures |= _symmetry(name, found, kind)
    return figures


def _removal(name: str, found: Arrays, shown: Shown, remove: Remove, seed: int) -> Figures:
    """The images that examples were kept of, and what is left of them."""
    numbers, rows, measured = np.intersect1d(shown.numbers, found["indices"], return_indices=True)
    if not len(numbers):
        return {}
    images, shares = shown.images[rows], found["value"][measured]
    return {name: removal_panel(images, remove(images, shares, numbers, seed), shares)}


def _symmetry(name: str, found: Arrays, settings: Mapping[str, Any]) -> Figures:
    """Accuracy over the circle and over scales, and errors of logits and layers."""
    positions = {"turn": _QUARTERS, "rotation": np.array(settings["angles"]), "scale": np.array(settings["scales"])}
    curves = [family for family in ("rotation", "scale") if len(positions[family]) > 2]  # fewer make no curve
    figures: Figures = {}
    if "rotation" in curves:
        figures[f"{name}-circle"] = accuracy_circle(shares_of(found, "rotation", positions["rotation"]))
    if "scale" in curves:
        figures[f"{name}-scales"] = accuracy_over_scales(shares_of(found, "scale", positions["scale"]))
    families = {family: _errors(found, family, "logits", positions[family]) for family in curves}
    places = {}
    for family, values in positions.items():
        layers = [key.removeprefix(f"{family}.error.") for key in found if key.startswith(f"{family}.error.")]
        if len(layers) > 1:  # the logits come last in the network
            layers = [*(layer for layer in layers if layer != "logits"), "logits"]
            places[family] = {layer: _errors(found, family, layer, values) for layer in layers}
    if families or places:
        figures[f"{name}-error"] = equivariance_errors(families, places)
    return figures


def shares_of(found: Arrays, family: str, positions: NDArray[np.float64]) -> dict[str, Line]:
    """Lines of accuracy and of kept predictions; where nothing moves is the disc as it is."""
    accuracy, same = found[f"{family}.correct"], found[f"{family}.consistent"]
    still, unmoved = {"rotation": 0.0, "scale": 1.0}[family], found["disc.correct"]
    return {
        "accuracy": _with(_line(positions, accuracy), still, unmoved),
        "same prediction": _with(_line(positions, same), still, np.ones_like(unmoved)),
    }


def _errors(found: Arrays, family: str, place: str, positions: NDArray[np.float64]) -> Errors:
    """Error of one place, and its floor, which exact turns do not have."""
    floor = found.get(f"{family}.floor.{place}")
    nothing = Line(*np.zeros((4, 0)))
    error = _line(positions, found[f"{family}.error.{place}"])
    return Errors(error, nothing if floor is None else _line(positions, floor))


def _line(positions: NDArray[np.float64], values: NDArray[np.generic]) -> Line:
    """Means over images of (N, T); entries that are NaN are left out, and so are columns of nothing else."""
    numbers = values.astype(np.float64)
    count = (~np.isnan(numbers)).sum(0)
    numbers, positions = numbers[:, count > 0], positions[count > 0]
    errors = np.nanstd(numbers, axis=0) / np.sqrt(count[count > 0])
    return line_with_errors(positions, np.nanmean(numbers, axis=0), errors)


def _with(line: Line, position: float, values: NDArray[np.generic]) -> Line:
    """A line with one more point, that of the images which were not moved, in its place."""
    more = _line(np.array([position]), values[:, None])
    joined = [np.append(column, extra) for column, extra in zip(line, more, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return Line(*(column[order] for column in joined))
