"""Accuracy over epsilon, epoch, angle, scale."""

from collections.abc import Mapping
from typing import cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

from symmetry_robustness.reporting.figures import style

# Row of panels -> column of panels -> network -> line.
Grid = Mapping[str, Mapping[str, Mapping[str, style.Line]]]


@style.printed
def curve_grid(grid: Grid, *, x_label: str, title: str = "", x_step: float | None = None) -> Figure:
    """Panels in rows and columns that share their axes, a line with its band for each network.

    Args:
        grid: row -> column -> network -> accuracies in [0, 1]; a place without lines stays empty.
        x_label: what varies, with its unit.
        title: of the whole figure.
        x_step: distance of the ticks, where round numbers are not what they should be.
    """
    columns = list(dict.fromkeys(column for row in grid.values() for column in row))
    looks = style.look_of(name for row in grid.values() for lines in row.values() for name in lines)
    width = style.ONE_COLUMN if len(columns) == 1 else style.TWO_COLUMNS
    height = (1.65 if len(columns) > 2 else 1.9) * len(grid) + 0.5 + 0.15 * len(looks)
    title = style.fitted(title, width)
    height += 0.13 * title.count("\n")
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(grid), len(columns), sharex="col", sharey=True, squeeze=False)
    for line, (row, by_column) in zip(panels, grid.items(), strict=False):
        for panel, column in zip(line, columns, strict=True):
            for name, values in by_column.get(column, {}).items():
                style.draw_line(panel, values, looks[name], name)
            panel.set_visible(bool(by_column.get(column)) or len(grid) == 1)
        line[0].set_ylabel(f"{row}\naccuracy (%)".strip())
    for panel, column in zip(panels[0], columns, strict=True):
        panel.set_title(column)
    drawn = [values for row in grid.values() for lines in row.values() for values in lines.values()]
    whole = all(np.all(values.positions % 1 == 0) for values in drawn)
    most = 5 if len(columns) < 3 else 4
    for panel in panels.flat:
        panel.set_ylim(0, 1.03)
        panel.yaxis.set_major_locator(MultipleLocator(0.2))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        panel.xaxis.set_major_locator(MultipleLocator(x_step) if x_step else MaxNLocator(most, integer=whole))
        panel.grid(True)
    style.label_last(panels, x_label)
    if title:
        figure.suptitle(title)
    style.legend_below(figure, panels.flat)
    return figure


@style.printed
def accuracy_circle(lines: Mapping[str, style.Line], *, title: str = "images rotated about their centre") -> Figure:
    """Values in [0, 1] over angles in degrees, counter-clockwise: one closed line for each network or quantity."""
    figure = Figure(figsize=(style.ONE_COLUMN, 3.0 + 0.15 * len(lines)), layout="constrained")
    panel = cast(PolarAxes, figure.add_subplot(projection="polar"))
    panel.set_theta_zero_location("N")
    for index, (name, line) in enumerate(lines.items()):
        order = np.argsort(line.positions % 360)
        closed = np.append(order, order[:1])
        angles = np.radians(line.positions[closed] % 360)
        angles[-1] += 2 * np.pi
        ends = (np.clip(end[closed], 0, 1) for end in (line.low, line.high))
        style.draw_line(panel, style.Line(angles, line.values[closed], *ends), index, name)
    panel.set(ylim=(0, 1), yticks=[0.25, 0.5, 0.75, 1], yticklabels=["", "50 %", "", "100 %"])
    panel.set_rlabel_position(67.5)
    for label in panel.get_yticklabels():  # lines may run below them
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    panel.set_title(title)
    panel.tick_params(axis="x", pad=0)
    style.legend_below(figure, [panel])
    return figure
