"""Shares as colours and numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures import style


@style.printed
def heat_maps(
    maps: Mapping[str, NDArray[np.float64]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    x_label: str = "",
    title: str = "",
    framed: NDArray[np.bool_] | None = None,
) -> Figure:
    """A panel for each map, with a number in each cell.

    Args:
        maps: title -> (rows, columns) in [0, 1]; NaN where nothing was measured.
        rows: their names.
        columns: their names, upright where they are longer than a number.
        label: what the shares are of.
        x_label: what the columns are.
        title: of the whole figure.
        framed: (rows, columns) cells of every map that are framed.
    """
    upright = 90 if max(map(len, columns)) > 2 else 0
    figure, panels = style.tiled(len(maps), 0.17 * len(rows) + 0.45, 1.1 if upright else 0.4, shared=True)
    width = figure.get_figwidth()
    for panel, (name, shares) in zip(panels.flat, maps.items(), strict=False):
        image = panel.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for (y, x), share in np.ndenumerate(shares):
            color = "black" if share > 0.45 else "white"
            if not np.isnan(share):
                panel.text(x, y, f"{100 * share:.0f}", color=color, ha="center", va="center", fontsize=style.SMALLEST)
            if framed is not None and framed[y, x]:
                panel.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=color, linewidth=0.9))
        panel.set_title("\n".join(style.fitted(line, 0.7 * width / panels.shape[1]) for line in name.split("\n")))
        panel.set_xticks(range(len(columns)), columns, rotation=upright)
        panel.set_yticks(range(len(rows)), rows)
        panel.tick_params(length=0)
    style.label_last(panels, x_label)
    bar = figure.colorbar(image, ax=panels, pad=0.01, fraction=0.04, aspect=35, format=PercentFormatter(1, symbol=""))
    bar.set_label(label)
    if title:
        figure.suptitle(style.fitted(title, width))
    return figure
