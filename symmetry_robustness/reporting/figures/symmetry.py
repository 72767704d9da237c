"""What turning and scaling the images does: accuracy in every direction, errors of logits and layers."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import withStroke
from matplotlib.projections.polar import PolarAxes

from symmetry_robustness.reporting.figures.curves import curve_grid
from symmetry_robustness.reporting.figures.style import (
    COLORS,
    MARKERS,
    ONE_COLUMN,
    SMALLEST,
    TWO_COLUMNS,
    Line,
    draw_line,
    legend_below,
    printed,
)

# Range of relative errors: what lies below is next to exact and is drawn at the lower end; above nothing can be.
_ERRORS = (1e-6, 8.0)
_PLACES = 48  # layers whose names fit side by side on a page


class Errors(NamedTuple):
    """Mean relative error and, beside it, the floor that resampling alone is responsible for; lines of one length."""

    error: Line
    floor: Line


@printed
def accuracy_circle(lines: Mapping[str, Line], *, title: str = "images rotated about their centre") -> Figure:
    """Accuracy in every direction: one closed line per network or quantity, the angle being that of the rotation.

    Args:
        lines: name -> values in [0, 1] over angles in degrees, counter-clockwise.
        title: of the figure.
    """
    figure = Figure(figsize=(ONE_COLUMN, 3.0 + 0.15 * len(lines)), layout="constrained")
    panel = cast(PolarAxes, figure.add_subplot(projection="polar"))
    panel.set_theta_zero_location("N")
    for index, (name, line) in enumerate(lines.items()):
        order = np.argsort(line.positions % 360)
        closed = np.append(order, order[:1])
        angles = np.radians(line.positions[closed] % 360)
        angles[-1] += 2 * np.pi
        ends = (np.clip(end[closed], 0, 1) for end in (line.low, line.high))
        draw_line(panel, Line(angles, line.values[closed], *ends), index, name)
    panel.set(ylim=(0, 1), yticks=[0.25, 0.5, 0.75, 1], yticklabels=["", "50 %", "", "100 %"])
    panel.set_rlabel_position(67.5)
    for label in panel.get_yticklabels():  # lines may run below them
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    panel.set_title(title)
    panel.tick_params(axis="x", pad=0)
    legend_below(figure, [panel])
    return figure


def accuracy_over_scales(lines: Mapping[str, Line]) -> Figure:
    """Accuracy over magnification: one line per network or quantity, with its band.

    Args:
        lines: name -> values in [0, 1] over scales.
    """
    return curve_grid({"": {"": lines}}, x_label="scale of the image", y_label="images (%)")


@printed
def equivariance_errors(families: Mapping[str, Errors], places: Mapping[str, Mapping[str, Errors]]) -> Figure:
    """Relative error of the logits over angles and over scales with the floor beside it, and of all layers below them.

    Args:
        families: "rotation", "scale" -> the logits' errors over the family's elements.
        places: family -> layer, or "logits" -> errors, whose means over the family's elements are shown; the floor of
            elements that are exact has no positions. At least one of the two must not be empty.
    """
    names = list(dict.fromkeys(name for errors in places.values() for name in errors))
    width = TWO_COLUMNS * max(1, len(names) / _PLACES)
    figure = Figure(figsize=(width, (2.3 if families else 0) + (2.9 if places else 0)), layout="constrained")
    parts = iter(figure.subfigures(bool(families) + bool(places), 1, squeeze=False).flat)
    if families:
        _draw_families(next(parts), families)
    if places:
        part = next(parts)
        panel = part.subplots()
        _draw_places(panel, places, names)
        panel.set_ylabel("relative\nsquared error")
        legend_below(part, [panel])
    for panel in figure.axes:
        panel.set(yscale="log", ylim=_ERRORS)
        panel.grid(True)
    return figure


def _draw_families(figure: SubFigure, families: Mapping[str, Errors]) -> None:
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for panel, (family, errors) in zip(panels, families.items(), strict=True):
        error, floor = (Line(line.positions, *np.maximum(line[1:], _ERRORS[0])) for line in errors)
        draw_line(panel, error, 0, "logits")
        draw_line(panel, floor, 6, "floor: the image moved there and back", marker="", linestyle="--")
        if family == "scale":
            panel.set(xlabel="scale of the image")
        else:
            panel.set(xlabel="rotation of the image (degrees)", xticks=range(0, 361, 90))
    panels[0].set_ylabel("relative\nsquared error")
    legend_below(figure, panels)


def _draw_places(panel: Axes, places: Mapping[str, Mapping[str, Errors]], names: list[str]) -> None:
    """Mean error of each layer, in the order of the layers; a hollow marker of the same shape is the floor."""
    for index, (family, by_name) in enumerate(places.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        for kind, style in (("error", "full"), ("floor", "none")):
            lines = {names.index(name): getattr(errors, kind).values for name, errors in by_name.items()}
            means = {place: max(values.mean(), _ERRORS[0]) for place, values in lines.items() if len(values)}
            label = family if kind == "error" else f"{family}, there and back"
            if means:
                look: dict[str, Any] = {"color": color, "fillstyle": style, "label": label, "clip_on": False}
                panel.plot([*means], [*means.values()], marker, **look)
    panel.set(xlim=(-0.5, len(names) - 0.5))
    panel.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=SMALLEST)
