"""Plots that measures declare (`results/plots.py`), as charts of the page: drawn by kind, from the report alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from symmetry_robustness.reporting.figures.from_report import measure_lines
from symmetry_robustness.reporting.figures.style import Line
from symmetry_robustness.results.plots import Distribution
from symmetry_robustness.results.report import RobustnessReport

_PERCENTILES: Final = tuple(range(0, 101, 5))
_ANGLE: Final = "angle (degrees)"


def measure_charts(report: RobustnessReport) -> Iterator[dict[str, Any]]:
    """Charts of the curves and distributions of every measure; more lines than a panel can tell apart are left out."""
    for name in report.measures:
        circles, panels, _ = measure_lines(report, name)
        for ylabel, lines in circles.items():
            yield _curves(name, _ANGLE, ylabel, lines)
        for (xlabel, ylabel, _), lines in panels.items():
            yield _curves(name, xlabel, ylabel, lines)
        for plot in report.plots(name):
            if isinstance(plot, Distribution) and plot.array in report.measures[name]:
                values = report.measures[name][plot.array].astype(np.float64)
                if np.isfinite(values).any():
                    spread = np.percentile(values[np.isfinite(values)], _PERCENTILES)
                    series = [{"name": plot.label, "y": [_number(value) for value in spread]}]
                    yield _chart(name, "percentile of the images", plot.label, _PERCENTILES, series)


def _curves(measure: str, xlabel: str, ylabel: str, lines: Mapping[str, Line]) -> dict[str, Any]:
    x = sorted({float(position) for line in lines.values() for position in line.positions})
    series = []
    for name, line in lines.items():
        one: dict[str, Any] = {"name": name}
        for key, values in (("y", line.values), ("low", line.low), ("high", line.high)):
            found = dict(zip(line.positions.tolist(), values.tolist(), strict=True))
            one[key] = [_number(found.get(position, np.nan)) for position in x]
        series.append(one)
    return _chart(measure, xlabel, ylabel, x, series)


def _chart(
    measure: str, xlabel: str, ylabel: str, x: Sequence[float], series: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {"title": measure.replace("_", " "), "xlabel": xlabel, "ylabel": ylabel, "x": x, "series": series}


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
