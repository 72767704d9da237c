"""Figures of one report: curves over epsilon, examples, and plots that its measures declare (`results/plots.py`)."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures import style
from symmetry_robustness.reporting.figures.curves import accuracy_circle, curve_grid
from symmetry_robustness.reporting.figures.examples import attack_rows, example_panel, panel_rows
from symmetry_robustness.results.names import epsilon_label, measure_title
from symmetry_robustness.results.plots import Curve, Distribution
from symmetry_robustness.results.report import Arrays, RobustnessReport

_NAMES: Final = 48  # names of arrays that fit side by side on a page
_FLOOR: Final = 1e-6  # smaller values stand here on a logarithmic axis
_SPREAD: Final = 100  # the largest value over the smallest from which on the axis is logarithmic


class Chart(NamedTuple):
    """Lines that share axes.

    Attributes:
        kind: `circle` over angles in degrees, `curves`, `arrays` (more lines than a panel can tell apart), or
            `distribution`: share of images with at least the value of the axis.
        xlabel: of the x-axis.
        ylabel: of the y-axis.
        shares: whether values are shares of images.
        lines: label -> line.
    """

    kind: Literal["circle", "curves", "arrays", "distribution"]
    xlabel: str
    ylabel: str
    shares: bool
    lines: dict[str, style.Line]


def report_figures(report: RobustnessReport) -> style.Figures:
    """All figures of a report by name: `curves` over epsilon, adversarial `examples`, and those of its measures."""
    figures = measure_figures(report)
    if report.minimal_epsilon:
        positions = np.array([0.0, *report.epsilons])
        panels = {}
        for attack in report.minimal_epsilon:
            values, errors, _ = zip(*(report.accuracy(attack, epsilon) for epsilon in positions), strict=True)
            line = style.line_with_errors(positions, np.array(values), np.array(errors))
            panels[attack.replace("_", " ")] = {f"{len(report):,} images": line}
        figures["curves"] = curve_grid({"": panels}, x_label=epsilon_label(report.norm))
    rows = attack_rows(report)
    return figures | ({"examples": example_panel(rows)} if len(rows) > 1 else {})


def measure_figures(report: RobustnessReport) -> style.Figures:
    """Figures of all measures of a report, named by measure and kind, e.g. `removal-examples`, `symmetry-circle`."""
    figures: style.Figures = {}
    for name in report.measures:
        if rows := panel_rows(report, name):
            figures[f"{name}-examples"] = example_panel(rows)
        charts = measure_charts(report, name)
        for chart in charts:
            if chart.kind == "circle":
                figures[f"{name}-circle"] = accuracy_circle(chart.lines, title=f"{chart.ylabel} over the angle")
        for kind, draw in (("curves", curve_panels), ("arrays", array_profiles)):
            if found := [chart for chart in charts if chart.kind == kind]:
                figures[f"{name}-{kind}"] = draw(found)
    return figures


def comparison_figures(reports: Mapping[str, RobustnessReport]) -> style.Figures:
    """Figures of networks that share protocol and images: first lines over the circle, all distributions."""
    figures: style.Figures = {}
    spreads: dict[str, Chart] = {}
    for measure in dict.fromkeys(name for report in reports.values() for name in report.measures):
        circle: dict[str, style.Line] = {}
        title = ""
        for network, report in reports.items():
            for chart in measure_charts(report, measure):
                first = next(iter(chart.lines.values()))
                if chart.kind == "circle" and network not in circle:
                    circle[network], title = first, f"{chart.ylabel} over the angle, first seed"
                elif chart.kind == "distribution":
                    name = measure_title(measure, report.settings.get("measures", {}))
                    label = chart.xlabel if chart.xlabel.startswith(name) else f"{name}: {chart.xlabel}"
                    spreads.setdefault(label, chart._replace(xlabel=label, lines={})).lines[network] = first
        if len(circle) > 1:
            figures[f"{measure}-circle"] = accuracy_circle(circle, title=title)
    return figures | ({"distributions": curve_panels([*spreads.values()])} if spreads else {})


def measure_charts(report: RobustnessReport, measure: str) -> list[Chart]:
    """Charts of the curves and distributions that a measure declares."""
    charts: dict[tuple[str, str, str, bool], Chart] = {}
    arrays = report.measures.get(measure, {})
    for plot in report.plots(measure):
        if isinstance(plot, Distribution) and plot.array in arrays:
            values = arrays[plot.array].astype(np.float64)
            lines = {plot.label: _at_or_above(values[np.isfinite(values)])} if np.isfinite(values).any() else {}
            chart = Chart("distribution", plot.label, "images at or above", True, lines)
        elif isinstance(plot, Curve):
            found = dict(_lines(plot, arrays))
            shares = all(arrays[name].dtype == np.bool_ for name in arrays for y in plot.y if fnmatch.fnmatch(name, y))
            lines = {" ".join(filter(None, (plot.label, name))) or plot.ylabel: line for name, line in found.items()}
            chart = Chart("circle" if plot.circular else "curves", plot.xlabel, plot.ylabel, shares, lines)
            if len(lines) > style.NETWORKS:
                title = ", ".join(filter(None, (plot.xlabel, plot.label)))
                chart = Chart("arrays", title, plot.ylabel, shares, found)
        else:
            continue
        if chart.lines:
            charts.setdefault(chart[:4], chart).lines.update(chart.lines)
    return [*charts.values()]


def _lines(plot: Curve, arrays: Arrays) -> Iterator[tuple[str, style.Line]]:
    """Name and line of each array that fits the last name of a curve and has a column for each position."""
    *first, last = plot.y
    if not all(name in arrays for name in first):
        return
    for name in fnmatch.filter(arrays, last):
        columns = np.concatenate([arrays[one].reshape(len(arrays[one]), -1) for one in (*first, name)], axis=1)
        if columns.shape[1] == len(plot.x):
            line = _mean_line(np.array(plot.x), columns.astype(np.float64))
            yield name.removeprefix(last[:-1]) if last.endswith("*") else "", line


def _mean_line(positions: NDArray[np.float64], values: NDArray[np.float64]) -> style.Line:
    """Means over images of (M, T) in the order of their positions, without NaN and columns of nothing else."""
    count = (~np.isnan(values)).sum(axis=0)
    order = np.array([place for place in np.argsort(positions, kind="stable") if count[place]], dtype=np.int64)
    values, positions = values[:, order], positions[order]
    errors = np.nanstd(values, axis=0) / np.sqrt(count[order])
    return style.line_with_errors(positions, np.nanmean(values, axis=0), errors)


def _at_or_above(values: NDArray[np.float64]) -> style.Line:
    """Share of (M,) values that are at least as large as each of them, and 0 beyond the largest."""
    known, below = np.unique(np.sort(values), return_index=True)
    shares = np.append(1 - below / len(values), 0.0)
    return style.Line(np.append(known, known[-1:]), shares, shares, shares)


@style.printed
def curve_panels(charts: Sequence[Chart]) -> Figure:
    """A panel for each chart, with a line and its band for each label."""
    looks = style.look_of(label for chart in charts for label in chart.lines)
    figure, panels = style.tiled(len(charts), 2.0, 0.3 + 0.15 * len(looks))
    for panel, chart in zip(panels.flat, charts, strict=False):
        _scale_to(panel, np.concatenate([line.values for line in chart.lines.values()]), chart.shares)
        steps = {"marker": "", "drawstyle": "steps-pre"} if chart.kind == "distribution" else {}
        for label, line in chart.lines.items():
            if panel.get_yscale() == "log":
                line = style.Line(line.positions, *np.maximum(line[1:], _FLOOR))
            style.draw_line(panel, line, looks[label], label, **steps)
        panel.set(xlabel=style.fitted(chart.xlabel, 2.0), ylabel=chart.ylabel)
        panel.locator_params(axis="x", nbins=4)  # numbers below 0.001 are wide
    style.legend_below(figure, panels.flat)
    return figure


@style.printed
def array_profiles(charts: Sequence[Chart]) -> Figure:
    """Means over all positions, one place for each array, e.g. for each layer of a network; a panel for each ylabel.

    The label of a chart's x-axis names its series, those of its lines the arrays.
    """
    labels = list(dict.fromkeys(chart.ylabel for chart in charts))
    width = style.TWO_COLUMNS * max(1, max(len(chart.lines) for chart in charts) / _NAMES)
    figure = Figure(figsize=(width, 2.9 * len(labels)), layout="constrained")
    panels = figure.subplots(len(labels), 1, squeeze=False)[:, 0]
    for panel, ylabel in zip(panels, labels, strict=True):
        series = {chart.xlabel: chart.lines for chart in charts if chart.ylabel == ylabel}
        names = list(dict.fromkeys(name for lines in series.values() for name in lines))
        means = {label: {n: line.values.mean() for n, line in lines.items()} for label, lines in series.items()}
        _scale_to(panel, np.array([value for found in means.values() for value in found.values()]), False)
        for index, (label, found) in enumerate(means.items()):
            look = {"color": style.COLORS[index % len(style.COLORS)], "fillstyle": "none" if index % 2 else "full"}
            places, values = [names.index(name) for name in found], np.maximum([*found.values()], _FLOOR)
            panel.plot(places, values, style.MARKERS[index % len(style.MARKERS)], label=label, clip_on=False, **look)
        panel.set(xlim=(-0.5, len(names) - 0.5), ylabel=style.fitted(ylabel, 1.0))
        panel.set_xticks(
            range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=style.SMALLEST
        )
        panel.grid(True)
    style.legend_below(figure, panels)
    return figure


def _scale_to(panel: Axes, values: NDArray[np.float64], shares: bool) -> None:
    """Percent for shares of images, a logarithmic axis for values over orders of magnitude, a plain one otherwise."""
    positive = values[values > 0]
    if shares:
        panel.set_ylim(0, 1.03)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif len(positive) and (values.max() > _SPREAD * max(positive.min(), _FLOOR) or values.max() <= _FLOOR):
        panel.set_yscale("log")
