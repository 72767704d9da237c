"""Figures of one report: curves over epsilon, examples, and plots that its measures declare (`results/plots.py`)."""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures.curves import accuracy_circle, curve_grid
from symmetry_robustness.reporting.figures.examples import attack_panel, example_panel
from symmetry_robustness.reporting.figures.style import (
    COLORS,
    MARKERS,
    NETWORKS,
    ONE_COLUMN,
    SMALLEST,
    TWO_COLUMNS,
    Figures,
    Line,
    draw_line,
    fitted,
    legend_below,
    line_with_errors,
    look_of,
    printed,
)
from symmetry_robustness.results.names import NORM_TITLES
from symmetry_robustness.results.plots import Curve, Distribution, Panel
from symmetry_robustness.results.report import Arrays, RobustnessReport

_NAMES: Final = 48  # names of arrays that fit side by side on a page
_FLOOR: Final = 1e-6  # smaller values stand here on a logarithmic axis
_SPREAD: Final = 100  # the largest value over the smallest from which on the axis is logarithmic


def report_figures(report: RobustnessReport) -> Figures:
    """All figures of a report by name: `curves` over epsilon, adversarial `examples`, and those of its measures."""
    figures = measure_figures(report)
    if report.minimal_epsilon:
        positions = np.array([0.0, *report.epsilons])
        panels = {}
        for attack in report.minimal_epsilon:
            values, errors, _ = zip(*(report.accuracy(attack, epsilon) for epsilon in positions), strict=True)
            line = line_with_errors(positions, np.array(values), np.array(errors))
            panels[attack.replace("_", " ")] = {f"{len(report):,} images": line}
        figures["curves"] = curve_grid({"": panels}, x_label=f"ε ({NORM_TITLES[report.norm]}, pixels in [0, 1])")
    first = np.argsort(report.indices, kind="stable")[: len(report.examples.get("clean", ()))]
    panel = attack_panel(report.examples, {name: found[first] for name, found in report.minimal_epsilon.items()})
    return figures | ({} if panel is None else {"examples": panel})


def measure_figures(report: RobustnessReport) -> Figures:
    """Figures of all measures of a report, named by measure and kind, e.g. `removal-examples`, `symmetry-circle`."""
    figures: Figures = {}
    for name, arrays in report.measures.items():
        circles, panels, profiles = measure_lines(report, name)
        for plot in report.plots(name):
            if isinstance(plot, Panel) and {plot.images, plot.values} <= set(arrays) and len(arrays[plot.images]):
                images = arrays[plot.images]
                captions = [f"{plot.label} {value:.3g}" for value in arrays[plot.values][: len(images)]]
                shown = np.array_equal(arrays["indices"][: len(images)], np.sort(report.indices)[: len(images)])
                clean = report.examples.get("clean", images[:0])[: len(images)]
                rows = {"clean": clean} if shown and len(clean) == len(images) else {}
                figures[f"{name}-examples"] = example_panel({**rows, name: images}, {name: captions})
        for ylabel, lines in circles.items():
            figures[f"{name}-circle"] = accuracy_circle(lines, title=f"{ylabel} over the angle")
        if panels:
            figures[f"{name}-curves"] = curve_panels(panels)
        if profiles:
            figures[f"{name}-arrays"] = array_profiles(profiles)
    return figures


def comparison_figures(reports: Mapping[str, RobustnessReport]) -> Figures:
    """Figures that hold several networks: for each measure its first line over the circle, and all distributions.

    Args:
        reports: network -> report, all of the same protocol and images.
    """
    figures: Figures = {}
    spreads: dict[str, dict[str, NDArray[np.float64]]] = {}
    for measure in dict.fromkeys(name for report in reports.values() for name in report.measures):
        lines: dict[str, Line] = {}
        for network, report in reports.items():
            if circles := measure_lines(report, measure)[0]:
                ylabel = next(iter(circles))
                lines[network] = next(iter(circles[ylabel].values()))
            for plot in report.plots(measure):
                if isinstance(plot, Distribution) and plot.array in report.measures.get(measure, {}):
                    values = np.sort(report.measures[measure][plot.array].astype(np.float64))
                    if len(values := values[np.isfinite(values)]):
                        label = f"{measure.replace('_', ' ')}: {plot.label}"
                        spreads.setdefault(label, {})[network] = values
        if len(lines) > 1:
            figures[f"{measure}-circle"] = accuracy_circle(lines, title=f"{ylabel} over the angle, first seed")
    return figures | ({"distributions": distributions(spreads)} if spreads else {})


# Label of the y-axis (of panels labels of both axes, and whether values are shares of images) -> label -> line; of
# profiles label of the y-axis -> label -> array name -> line.
_Circles = dict[str, dict[str, Line]]
_Panels = dict[tuple[str, str, bool], dict[str, Line]]
_Profiles = dict[str, dict[str, dict[str, Line]]]


def measure_lines(report: RobustnessReport, measure: str) -> tuple[_Circles, _Panels, _Profiles]:
    """Lines over the circle, over an axis, and of more arrays than one panel can tell apart."""
    circles: _Circles = {}
    panels: _Panels = {}
    profiles: _Profiles = {}
    arrays = report.measures.get(measure, {})
    for plot in report.plots(measure):
        if not isinstance(plot, Curve):
            continue
        lines = dict(_lines(plot, arrays))
        if len(lines) > NETWORKS:
            title = ", ".join(filter(None, (plot.xlabel, plot.label)))
            profiles.setdefault(plot.ylabel, {})[title] = lines
            continue
        shown = {" ".join(filter(None, (plot.label, name))) or plot.ylabel: line for name, line in lines.items()}
        if shown and plot.circular:
            circles.setdefault(plot.ylabel, {}).update(shown)
        elif shown:
            shares = all(arrays[name].dtype == np.bool_ for name in arrays for y in plot.y if fnmatch.fnmatch(name, y))
            panels.setdefault((plot.xlabel, plot.ylabel, shares), {}).update(shown)
    return circles, panels, profiles


def _lines(plot: Curve, arrays: Arrays) -> Iterator[tuple[str, Line]]:
    """Name and line of each array that fits the last name of a curve and has a column for each position."""
    *first, last = plot.y
    if not all(name in arrays for name in first):
        return
    for name in fnmatch.filter(arrays, last):
        columns = np.concatenate([arrays[one].reshape(len(arrays[one]), -1) for one in (*first, name)], axis=1)
        if columns.shape[1] == len(plot.x):
            line = _mean_line(np.array(plot.x), columns.astype(np.float64))
            yield name.removeprefix(last[:-1]) if last.endswith("*") else "", line


def _mean_line(positions: NDArray[np.float64], values: NDArray[np.float64]) -> Line:
    """Means over images of (M, T) in the order of their positions, without NaN and columns of nothing else."""
    count = (~np.isnan(values)).sum(axis=0)
    order = np.array([place for place in np.argsort(positions, kind="stable") if count[place]], dtype=np.int64)
    values, positions = values[:, order], positions[order]
    errors = np.nanstd(values, axis=0) / np.sqrt(count[order])
    return line_with_errors(positions, np.nanmean(values, axis=0), errors)


@printed
def curve_panels(panels: Mapping[tuple[str, str, bool], Mapping[str, Line]]) -> Figure:
    """A panel for each pair of axes, with a line and its band for each label.

    Args:
        panels: labels of the x- and y-axis, and whether values are shares -> label -> line.
    """
    looks = look_of(label for lines in panels.values() for label in lines)
    figure, axes = _panels(len(panels), len(looks))
    for panel, ((xlabel, ylabel, shares), lines) in zip(axes, panels.items(), strict=True):
        _scale_to(panel, np.concatenate([line.values for line in lines.values()]), shares)
        for label, line in lines.items():
            if panel.get_yscale() == "log":
                line = Line(line.positions, *np.maximum(line[1:], _FLOOR))
            draw_line(panel, line, looks[label], label)
        panel.set(xlabel=xlabel, ylabel=ylabel)
    legend_below(figure, axes)
    return figure


@printed
def array_profiles(profiles: Mapping[str, Mapping[str, Mapping[str, Line]]]) -> Figure:
    """Means over all positions, one place for each array, e.g. for each layer of a network.

    Args:
        profiles: label of the y-axis -> label of the series -> name of the array -> line.
    """
    most = max(len(lines) for series in profiles.values() for lines in series.values())
    width = TWO_COLUMNS * max(1, most / _NAMES)
    figure = Figure(figsize=(width, 2.9 * len(profiles)), layout="constrained")
    panels = figure.subplots(len(profiles), 1, squeeze=False)[:, 0]
    for panel, (ylabel, series) in zip(panels, profiles.items(), strict=True):
        names = list(dict.fromkeys(name for lines in series.values() for name in lines))
        means = {label: {n: line.values.mean() for n, line in lines.items()} for label, lines in series.items()}
        _scale_to(panel, np.array([value for found in means.values() for value in found.values()]), False)
        for index, (label, found) in enumerate(means.items()):
            look = {"color": COLORS[index % len(COLORS)], "fillstyle": "none" if index % 2 else "full"}
            places, values = [names.index(name) for name in found], np.maximum([*found.values()], _FLOOR)
            panel.plot(places, values, MARKERS[index % len(MARKERS)], label=label, clip_on=False, **look)
        panel.set(xlim=(-0.5, len(names) - 0.5), ylabel=fitted(ylabel, 1.0))
        panel.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=SMALLEST)
        panel.grid(True)
    legend_below(figure, panels)
    return figure


@printed
def distributions(spreads: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Figure:
    """Share of images with at least the value of the axis, a panel for each quantity, a line for each network.

    Args:
        spreads: label of the axis -> network -> finite values (M,), increasing.
    """
    looks = look_of(name for by_name in spreads.values() for name in by_name)
    figure, panels = _panels(len(spreads), len(looks))
    for panel, (label, by_name) in zip(panels, spreads.items(), strict=True):
        for name, values in by_name.items():
            positions, shares = np.append(values, values[-1:]), 1 - np.arange(len(values) + 1) / len(values)
            line = Line(positions, shares, shares, shares)
            draw_line(panel, line, looks[name], name, marker="", drawstyle="steps-pre")
        panel.set(xlabel=fitted(label, 2.0), ylabel="images at or above (%)", ylim=(0, 1.03))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    legend_below(figure, panels)
    return figure


def _panels(count: int, names: int) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, in rows of at most three, and room for a legend of so many names."""
    across = count if count < 4 else 2 if count == 4 else 3
    down = -(-count // across)
    size = (ONE_COLUMN if across == 1 else TWO_COLUMNS, 2.0 * down + 0.3 + 0.15 * names)
    figure = Figure(figsize=size, layout="constrained")
    panels = [*figure.subplots(down, across, squeeze=False).flat]
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _scale_to(panel: Axes, values: NDArray[np.float64], shares: bool) -> None:
    """Percent for shares of images, a logarithmic axis for values over orders of magnitude, a plain one otherwise."""
    positive = values[values > 0]
    if shares:
        panel.set_ylim(0, 1.03)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif len(positive) and (values.max() > _SPREAD * max(positive.min(), _FLOOR) or values.max() <= _FLOOR):
        panel.set_yscale("log")
