"""Measures and costs of the networks that fit into a row: CLEVER, errors under corruptions, size and speed."""

from collections.abc import Iterator, Mapping

import pandas as pd

from symmetry_robustness.reporting.frame import COSTS, records, split
from symmetry_robustness.reporting.page import Measured, NetworkMeasures, finite

_CLEVER = ("clever", "clever_median")
_COMMON = ("mean_corruption_error", *COSTS)


def find_measures(results: pd.DataFrame, numbers: Mapping[str, int]) -> Iterator[NetworkMeasures]:
    """One for each network, or for each setting in which its CLEVER was taken.

    Args:
        results: of `summarize`.
        numbers: section to number of the setting.
    """
    for rows in split(results, "settings").values():
        placed = rows[rows["comparison_group"] != ""]  # a cost belongs to no section, and does not know its data set
        common = _means(rows[rows["measure"].isin(_COMMON)])
        taken = split(rows[rows["measure"].isin(_CLEVER)], "comparison_group")
        for section, scores in taken.items():
            first = records(scores.head(1))[0]
            values = _means(scores) | common
            yield NetworkMeasures(first.label, first.data, numbers[section], first.checks, values)
        if common and not taken and len(placed):
            first = records(placed.head(1))[0]
            yield NetworkMeasures(first.label, first.data, None, "", common)


def _means(rows: pd.DataFrame) -> dict[str, Measured]:
    """By measure; what is not a number is left out."""
    found = {}
    for row in records(rows):
        value, low, high = finite((row.value, row.low, row.high))
        if value is not None:
            found[row.measure] = Measured(value, low, high, row.seeds)
    return found
