"""Estimated lower bounds of the distance to a misclassified image, beside the distances that attacks found."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures import style


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


@style.printed
def estimate_against_distance(networks: Mapping[str, Pairs], *, estimate: str, distance: str) -> Figure:
    """An estimated lower bound over the distance found of each image, which should stay below the diagonal.

    Images that are misclassified without attack do not belong here; `estimate` and `distance` label the axes.
    """
    columns = style.across(len(networks))
    side = ((style.ONE_COLUMN if columns == 1 else style.TWO_COLUMNS) - 0.6) / columns
    figure, panels = style.tiled(len(networks), min(side, 2.6) + 0.3, 0.6, shared=True)
    values = np.concatenate([[*pairs.estimates, *pairs.distances] for pairs in networks.values()])
    low, high = 0.8 * values[values > 0].min(), 1.25 * values.max()
    for panel, (name, pairs) in zip(panels.flat, networks.items(), strict=False):
        _draw_pairs(panel, pairs, low)
        known = int((~pairs.saturated).sum())
        panel.set_title(style.fitted(f"{name}: {int(pairs.exceeding.sum())} of {known} above", side))
        panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())  # over several decades they took up to half of the time
    style.label_last(panels, distance)
    for panel in panels[:, 0]:
        panel.set_ylabel(estimate)
    style.legend_below(figure, panels.flat)
    return figure


def _draw_pairs(panel: Axes, pairs: Pairs, lowest: float) -> None:
    """Below the diagonal, above it, and not broken at all; estimates of 0 lie on the lower edge."""
    above, saturated = pairs.exceeding, pairs.saturated
    estimates = np.maximum(pairs.estimates, lowest)
    kinds = (
        ("estimate below the distance found", ~above & ~saturated, "o", style.COLORS[0], "none"),
        ("estimate above it", above, "X", style.COLORS[1], style.COLORS[1]),
        ("not broken up to there", saturated, ">", style.COLORS[2], "none"),
    )
    for label, chosen, marker, color, face in kinds:
        if chosen.any():
            points = (pairs.distances[chosen], estimates[chosen])
            panel.scatter(*points, s=11, marker=marker, edgecolors=color, facecolors=face, linewidths=0.7, label=label)
    panel.axline((1, 1), (10, 10), color="0.4", linewidth=0.7, linestyle="--", zorder=0)
    panel.grid(True)
