"""Networks side by side: bars, errors by corruption, estimates beside what attacks found."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures.style import (
    COLORS,
    HATCHES,
    ONE_COLUMN,
    SMALLEST,
    TWO_COLUMNS,
    fitted,
    legend_below,
    look_of,
    printed,
)


class Bar(NamedTuple):
    """A share in [0, 1] with its interval, and whether a test says that it is the best of its group."""

    value: float
    low: float
    high: float
    best: bool = False


@printed
def bars(panels: Mapping[str, Mapping[str, Mapping[str, Bar]]], *, x_label: str = "", title: str = "") -> Figure:
    """Accuracy of networks side by side in groups, with intervals; a star stands above the best of a group.

    Args:
        panels: title -> group, e.g. an epsilon -> network -> bar.
        x_label: what the groups are.
        title: of the whole figure.
    """
    looks = look_of(name for groups in panels.values() for by_name in groups.values() for name in by_name)
    width = ONE_COLUMN if len(panels) == 1 else TWO_COLUMNS
    figure = Figure(figsize=(width, 2.3 + 0.15 * len(looks)), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (name, groups) in zip(row, panels.items(), strict=True):
        _draw_groups(panel, groups, looks)
        panel.set(title=name, xlabel=x_label)
    highest = max(bar.high for groups in panels.values() for group in groups.values() for bar in group.values())
    row[0].set(ylabel="accuracy (%)", ylim=(0, min(1.06, max(0.1, 1.12 * highest))))
    row[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    if title:
        figure.suptitle(fitted(title, width))
    legend_below(figure, row)
    return figure


def _draw_groups(panel: Axes, groups: Mapping[str, Mapping[str, Bar]], looks: Mapping[str, int]) -> None:
    width = 0.8 / len(looks)
    for name, index in looks.items():
        found = [(place, group[name]) for place, group in enumerate(groups.values()) if name in group]
        at = [place + (index - (len(looks) - 1) / 2) * width for place, _ in found]
        heights = np.array([bar.value for _, bar in found])
        reach = np.array([[bar.value - bar.low, bar.high - bar.value] for _, bar in found]).reshape(-1, 2).T
        color, hatch = COLORS[index % len(COLORS)], HATCHES[index % len(HATCHES)]
        # White lines in a dark bar, as a hatch, are seen without any colour.
        panel.bar(at, heights, width, color=color, edgecolor="white", hatch=hatch, linewidth=0.4, label=name)
        panel.errorbar(at, heights, np.clip(reach, 0, None), fmt="none", color="0.2", elinewidth=0.7, capsize=1.5)
        for x, (_, bar) in zip(at, found, strict=True):
            if bar.best:
                panel.annotate("★", (x, bar.high), (0, 1), textcoords="offset points", ha="center", fontsize=SMALLEST)
    panel.set_xticks(range(len(groups)), [*groups])
    panel.set_xlim(-0.5, len(groups) - 0.5)
    panel.grid(True, axis="y")
    panel.set_axisbelow(True)


@printed
def corruption_map(errors: Mapping[str, NDArray[np.float64]], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Error of each network under every corruption at every severity, as colours and numbers.

    Args:
        errors: network -> (corruptions, severities) in [0, 1]; NaN where nothing was measured.
        rows: names of the corruptions.
        columns: names of the severities.
    """
    width = ONE_COLUMN if len(errors) == 1 else TWO_COLUMNS
    figure = Figure(figsize=(width, 0.17 * len(rows) + 0.9), layout="constrained")
    row = figure.subplots(1, len(errors), sharey=True, squeeze=False)[0]
    for panel, (name, values) in zip(row, errors.items(), strict=True):
        image = panel.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):
                color = "black" if value > 0.45 else "white"
                panel.text(x, y, f"{100 * value:.0f}", color=color, ha="center", va="center", fontsize=SMALLEST)
        mean = f"mean {100 * np.nanmean(values):.1f} %"
        panel.set(title=f"{fitted(name, 0.8 * width / len(errors))}\n{mean}", xlabel="severity")
        panel.set_xticks(range(len(columns)), columns)
        panel.set_yticks(range(len(rows)), rows)
        panel.tick_params(length=0)
    bar = figure.colorbar(
        image, ax=list(row), pad=0.01, fraction=0.04, aspect=35, format=PercentFormatter(1.0, symbol="")
    )
    bar.set_label("error (%)")
    return figure


class Pairs(NamedTuple):
    """An estimate of each image's robustness and the distance at which an attack broke it, each of shape (N,).

    Where `saturated` holds no attack succeeded, and the image is at least as far away as its distance says.
    """

    estimates: NDArray[np.float64]
    distances: NDArray[np.float64]
    saturated: NDArray[np.bool_]

    @property
    def exceeding(self) -> NDArray[np.bool_]:
        """Where the estimated lower bound is larger than a distance at which the image was broken."""
        return np.asarray((self.estimates > self.distances) & ~self.saturated)


@printed
def estimate_against_distance(networks: Mapping[str, Pairs], *, estimate: str, distance: str) -> Figure:
    """An estimated lower bound over the distance an attack found, a point per image; it should stay below the diagonal.

    Args:
        networks: a panel for each; images that are misclassified without attack do not belong here.
        estimate: what is estimated, with its norm.
        distance: what was found, with its norm.
    """
    across = len(networks) if len(networks) < 4 else 2 if len(networks) == 4 else 3
    down = -(-len(networks) // across)
    width = ONE_COLUMN if across == 1 else TWO_COLUMNS
    side = (width - 0.6) / across
    figure = Figure(figsize=(width, down * (min(side, 2.6) + 0.3) + 0.6), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    values = np.concatenate([[*pairs.estimates, *pairs.distances] for pairs in networks.values()])
    low, high = 0.8 * values[values > 0].min(), 1.25 * values.max()
    for panel, (name, pairs) in zip(panels.flat, networks.items(), strict=False):
        _draw_pairs(panel, pairs, low)
        known = int((~pairs.saturated).sum())
        panel.set_title(fitted(f"{name}: {int(pairs.exceeding.sum())} of {known} above", side))
        panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    for panel in panels.flat[len(networks) :]:
        panel.set_visible(False)
    for column in panels.T:
        last = [panel for panel in column if panel.get_visible()][-1]
        last.set_xlabel(distance)
        last.tick_params(labelbottom=True)
    for panel in panels[:, 0]:
        panel.set_ylabel(estimate)
    legend_below(figure, panels.flat)
    return figure


def _draw_pairs(panel: Axes, pairs: Pairs, lowest: float) -> None:
    """Below the diagonal, above it, and not broken at all; estimates of 0 lie on the lower edge."""
    above, saturated = pairs.exceeding, pairs.saturated
    estimates = np.maximum(pairs.estimates, lowest)
    kinds = (
        ("estimate below the distance found", ~above & ~saturated, "o", COLORS[0], "none"),
        ("estimate above it", above, "X", COLORS[1], COLORS[1]),
        ("not broken up to there", saturated, ">", COLORS[2], "none"),
    )
    for label, chosen, marker, color, face in kinds:
        if chosen.any():
            points = (pairs.distances[chosen], estimates[chosen])
            panel.scatter(*points, s=11, marker=marker, edgecolors=color, facecolors=face, linewidths=0.7, label=label)
    panel.axline((1, 1), (10, 10), color="0.4", linewidth=0.7, linestyle="--", zorder=0)
    panel.grid(True)
