"""Names of networks and data sets in figures, bands of their lines, and how many of them a figure holds."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symmetry_robustness.reporting.comparability import readable
from symmetry_robustness.reporting.figures.style import Line

# Pairs of a file's stem and a figure.
Drawn = Iterator[tuple[str, Figure]]
T = TypeVar("T")


def shown_network(label: str) -> str:
    """A network's label for a reader, in which no formula begins."""
    return readable(label).replace("$", r"\$")


def intervals_over(rows: pd.DataFrame) -> str:
    """Sources of the variation that the intervals of these rows count."""
    found = sorted(set(rows["interval"]) - {""})
    return " or ".join(found) if 0 < len(found) < 3 else "seeds, or images of a single one"


def line_of(rows: pd.DataFrame, over: str) -> Line:
    """Means over a column; where there is no interval the band has no width."""
    positions, values = rows[over].to_numpy(np.float64), rows["value"].to_numpy(np.float64)
    low, high = (rows[end].fillna(rows["value"]).to_numpy(np.float64) for end in ("low", "high"))
    return Line(positions, values, low, high)


def first_of(found: Mapping[str, T], most: int, what: str, notes: list[str]) -> dict[str, T]:
    """The first `most` networks, and a note if there are more."""
    if len(found) > most:
        notes.append(f"{what}: the first {most} of {len(found)} networks are drawn")
    return dict(list(found.items())[:most])
