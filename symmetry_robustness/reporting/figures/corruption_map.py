"""Errors by corruption and severity."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures import style


@style.printed
def corruption_map(errors: Mapping[str, NDArray[np.float64]], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Error of each network under every corruption at every severity, as colours and numbers.

    Args:
        errors: network -> (corruptions, severities) in [0, 1]; NaN where nothing was measured.
        rows: names of the corruptions.
        columns: names of the severities.
    """
    width = style.ONE_COLUMN if len(errors) == 1 else style.TWO_COLUMNS
    figure = Figure(figsize=(width, 0.17 * len(rows) + 0.9), layout="constrained")
    row = figure.subplots(1, len(errors), sharey=True, squeeze=False)[0]
    for panel, (name, values) in zip(row, errors.items(), strict=True):
        image = panel.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):
                color = "black" if value > 0.45 else "white"
                panel.text(x, y, f"{100 * value:.0f}", color=color, ha="center", va="center", fontsize=style.SMALLEST)
        mean = f"mean {100 * np.nanmean(values):.1f} %"
        panel.set(title=f"{style.fitted(name, 0.8 * width / len(errors))}\n{mean}", xlabel="severity")
        panel.set_xticks(range(len(columns)), columns)
        panel.set_yticks(range(len(rows)), rows)
        panel.tick_params(length=0)
    bar = figure.colorbar(
        image, ax=list(row), pad=0.01, fraction=0.04, aspect=35, format=PercentFormatter(1.0, symbol="")
    )
    bar.set_label("error (%)")
    return figure
