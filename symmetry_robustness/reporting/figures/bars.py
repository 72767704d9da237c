"""Accuracies of networks side by side."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from symmetry_robustness.reporting.figures import style


class Bar(NamedTuple):
    """A share in [0, 1] with its interval, and whether a test says that it is the best of its group."""

    value: float
    low: float
    high: float
    best: bool = False


@style.printed
def bars(panels: Mapping[str, Mapping[str, Mapping[str, Bar]]], *, x_label: str = "", title: str = "") -> Figure:
    """Accuracies of networks (panel -> group, e.g. an epsilon -> network -> bar), a star above the best of a group."""
    looks = style.look_of(name for groups in panels.values() for by_name in groups.values() for name in by_name)
    width = style.ONE_COLUMN if len(panels) == 1 else style.TWO_COLUMNS
    figure = Figure(figsize=(width, 2.3 + 0.15 * len(looks)), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (name, groups) in zip(row, panels.items(), strict=True):
        _draw_groups(panel, groups, looks)
        panel.set(title=name, xlabel=x_label)
    highest = max(bar.high for groups in panels.values() for group in groups.values() for bar in group.values())
    row[0].set(ylabel="accuracy (%)", ylim=(0, min(1.06, max(0.1, 1.12 * highest))))
    row[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    if title:
        text = style.fitted(title, width)
        figure.suptitle(text)
        style.make_room(figure, text.count("\n"))
    style.legend_below(figure, row)
    return figure


def _draw_groups(panel: Axes, groups: Mapping[str, Mapping[str, Bar]], looks: Mapping[str, int]) -> None:
    width = 0.8 / len(looks)
    for name, index in looks.items():
        found = {place: group[name] for place, group in enumerate(groups.values()) if name in group}
        at = np.array([*found]) + (index - (len(looks) - 1) / 2) * width
        heights, low, high, _ = np.array([*found.values()], dtype=np.float64).reshape(-1, 4).T
        reach = np.clip([heights - low, high - heights], 0, None)
        color, hatch = style.COLORS[index % len(style.COLORS)], style.HATCHES[index % len(style.HATCHES)]
        # White lines in a dark bar, as a hatch, are seen without any colour.
        panel.bar(at, heights, width, color=color, edgecolor="white", hatch=hatch, linewidth=0.4, label=name)
        panel.errorbar(at, heights, reach, fmt="none", color="0.2", elinewidth=0.7, capsize=1.5)
        for x, bar in zip(at, found.values(), strict=True):
            if bar.best:
                panel.annotate(
                    "★", (x, bar.high), (0, 1), textcoords="offset points", ha="center", fontsize=style.SMALLEST
                )
    panel.set_xticks(range(len(groups)), [*groups])
    panel.set_xlim(-0.5, len(groups) - 0.5)
    panel.grid(True, axis="y")
    panel.set_axisbelow(True)
