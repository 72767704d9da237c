"""The report's tables: rows of numbers, and the texts that show them."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from symmetry_robustness.corruption_names import BENCHMARK, SEVERITIES
from symmetry_robustness.reporting.aggregate import COLUMN, SHARES, ComparisonGroup, Summary, set_aside
from symmetry_robustness.reporting.comparability import readable
from symmetry_robustness.reporting.evaluation import FINAL, measure_name
from symmetry_robustness.reporting.frame import CORRUPTED, COSTS, QUANTILES, records, split
from symmetry_robustness.reporting.load import VIEWS, Run, find_runs
from symmetry_robustness.reporting.statistics import share_interval
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet, flag, terminal
from symmetry_robustness.results.checks import count_checks
from symmetry_robustness.results.names import epsilon_name, measure_title
from symmetry_robustness.results.report import Estimate

_INTERVALS = "Mean and 95 % interval: over seeds and images, with one seed over images, as the column says."
_BEST = "Bold: better than every other in a paired test over several seeds (5 % for each column, after Holm)."
_BELOW_0 = "By less than 0: the mean over all seeds leads, but not the one over the seeds that both networks have."
_FLOPS = (
    "FLOPs: multiplications and additions of convolutions and matrix products, per image of one forward pass, in "
    "training of all steps with their attacks. Seconds without evaluations; memory until the end of the first epoch."
)
_QUANTILES = dict(zip(QUANTILES, ("lower quartile", "median", "upper quartile"), strict=True))
_COSTS = {
    "parameters": "parameters",
    "flops": "FLOPs per image",
    "forward_passes": "forward passes per step",
    "backward_passes": "backward passes per step",
    "training_flops": "training TFLOPs",
    "training_seconds": "training s",
    "images_per_second": "images/s in training",
    "peak_memory": "peak memory MiB",
}
_UNITS = {"training_flops": 1e12, "peak_memory": 2**20}


def table_sets(summary: Summary) -> list[TableSet]:
    """Tables of the results; those of which there is nothing are empty."""
    results = summary.results
    is_share, is_cost = results["measure"].isin(SHARES), results["measure"].isin(COSTS)
    corrupted = results[results["view"].isin(CORRUPTED) | (results["measure"] == "mean_corruption_error")]
    costs = results[is_cost]
    cost_tables = [_table("Costs", costs, lambda row: _COSTS[row.measure], [_FLOPS], _cost)] if len(costs) else []
    accuracy = [*_accuracy_tables(summary)]
    if accuracy and (note := summary.trained_elsewhere):
        accuracy[0] = replace(accuracy[0], notes=[*accuracy[0].notes, note])
    return [
        TableSet("accuracy", accuracy, results[is_share & (results["view"] == "")]),
        TableSet("leaders", [*_leader_tables(summary)], summary.comparisons),
        TableSet("measures", [*_measure_tables(summary)], results[~is_share & ~is_cost]),
        TableSet("corruptions", [*_corruption_tables(corrupted)], corrupted),
        TableSet("costs", cost_tables, costs),
    ]


def title_of(group: ComparisonGroup) -> str:
    """Which data, how many images and which protocol, in one line."""
    kind = "released" if group.released else "sound"
    images = "all" if group.images is None else f"{group.images:,}"
    protocol = f"protocol {group.protocol} ({kind})" if group.protocol else "no attack"
    return f"{group.data}, {images} {group.split} images, {protocol}"


def cell_of(row: Any) -> Cell:
    """A mean with its interval; shares in percent."""
    return _cell(row, lambda value: f"{100 * value:.1f}" if row.measure in SHARES else f"{value:.3g}")


def _cost(row: Any) -> Cell:
    if row.measure in ("parameters", "flops", "forward_passes", "backward_passes"):
        return Cell(f"{row.value:,.0f}")
    unit = _UNITS.get(row.measure, 1)
    return _cell(row, lambda value: f"{value / unit:,.0f}" if abs(value) >= 1000 * unit else f"{value / unit:.3g}")


def _cell(row: Any, text: Callable[[float], str]) -> Cell:
    mean = text(row.value)
    return Cell(mean if np.isnan(row.low) else f"{mean} [{text(row.low)}, {text(row.high)}]", bool(row.best))


def _table(
    title: str,
    rows: pd.DataFrame,
    column: Callable[[Any], str],
    notes: Sequence[str],
    cell: Callable[[Any], Cell] = cell_of,
) -> Table:
    """One line for each network, its numbers in the columns that `column` names."""
    lines: dict[str, dict[str, Cell]] = {}
    intervals: dict[str, dict[str, None]] = {}
    for row in records(rows):
        lines.setdefault(row.settings, {"network": Cell(f"{row.label}{flag(row.checks)}")})[column(row)] = cell(row)
        intervals.setdefault(row.settings, {})[row.interval] = None
    for settings, over in intervals.items():
        lines[settings]["interval over"] = Cell(", ".join(filter(None, over)))
    names = dict.fromkeys(name for line in lines.values() for name in line if name not in ("network", "interval over"))
    columns = ["network", "interval over", *names]
    cells = [[line.get(name, Cell("")) for name in columns] for line in lines.values()]
    return Table(title, columns, cells, notes, fixed=2)


def _notes(group: ComparisonGroup) -> list[str]:
    """Notes on protocol, intervals and trainings below the tables of a comparison group."""
    notes = [f"{group.description[0].upper()}{group.description[1:]}. {_INTERVALS} {_BEST}"]
    if group.training_differs_in:
        notes.append(f"The networks' trainings differ in {group.training_differs_in}.")
    return notes


def aside_notes(aside: Mapping[str, Sequence[Any]]) -> list[str]:
    """A sentence for each reason for which networks may not lead."""
    named = {reason: dict.fromkeys(readable(row.label) for row in rows) for reason, rows in aside.items()}
    return [f"Set aside: {'; '.join(names)} ({reason})." for reason, names in named.items()]


def _accuracy_tables(summary: Summary) -> Iterator[Table]:
    """For each comparison group one table per attack, epsilons as columns, and one of accuracies without."""
    by_group = split(summary.results, "comparison_group")
    for group in summary.groups.values():
        rows, title = by_group[group.key], title_of(group)
        notes = [*_notes(group), *aside_notes(set_aside(records(rows), summary.guessing))]
        whole = rows[(rows["measure"] == "test_accuracy") & ~rows["view"].isin(CORRUPTED)]
        if len(whole):
            overall = "mean over the test sets" if rows["view"].any() else "clean"
            yield _table(f"Accuracy %, {title}", whole, lambda row, name=overall: row.view or name, notes)  # type: ignore[misc]
        attacked = rows[rows["measure"].isin(["robust_accuracy", "worst_case_accuracy"])]
        clean = rows[(rows["measure"] == "clean_accuracy") & bool(len(attacked))]
        for attack, under in split(attacked, "attack").items():
            name = attack.replace("_", " ") or "worst case over attacks"
            about = f"Accuracy % under {name}, {under['norm'].iloc[0]}, {title}"
            yield _table(about, pd.concat([clean, under]), _epsilon, notes)


def _epsilon(row: Any) -> str:
    return "clean" if np.isnan(row.epsilon) else f"ε = {epsilon_name(row.epsilon)}"


def _leader_tables(summary: Summary) -> Iterator[Table]:
    """For each comparison group, which network leads each column, and by how much before the one that comes closest."""
    for key, found in split(summary.comparisons, "comparison_group").items():
        group = summary.groups[key]
        closest = found["value"].fillna(np.inf).groupby([found[name] for name in COLUMN], dropna=False, sort=False)
        rows = records(found.loc[closest.idxmin()])
        lines = [[*map(Cell, _leader_texts(row, summary.measures))] for row in rows]
        columns = ("under", "ε", "leads", "before", "by", "adjusted p", "beats all others", "test")
        notes = [*_notes(group)[1:], *([_BELOW_0] if any(row.value < 0 for row in rows) else [])]
        yield Table(f"Who leads, {title_of(group)}", columns, lines, notes, fixed=4)


def _leader_texts(row: Any, measures: Mapping[str, Any]) -> list[str]:
    what = row.attack.replace("_", " ") or measure_title(row.measure, measures)
    epsilon = "" if np.isnan(row.epsilon) else epsilon_name(row.epsilon)
    if np.isnan(row.value):
        return [what, epsilon, row.label, row.other, "", "", "no", row.test]
    if row.value == 0:
        return [what, epsilon, "none", f"{row.label} and {row.other} are equal", "0", "", "no", row.test]
    scale, unit = (100, " points") if row.measure in SHARES else (1, "")
    margin = f"{scale * row.value:.3g} [{scale * row.low:.3g}, {scale * row.high:.3g}]{unit}"
    best = "yes" if row.best else "no"
    return [what, epsilon, row.label, row.other, margin, f"{row.adjusted:.2g}", best, row.test]


def _measure_tables(summary: Summary) -> Iterator[Table]:
    """Accuracy without attack and in the worst case, and the measures of each comparison group."""
    rows = summary.results
    beside = {*COSTS, *SHARES} - {"worst_case_accuracy", "clean_accuracy"}
    measured = rows[~rows["measure"].isin(beside)]
    for key, found in split(measured[measured["comparison_group"] != ""], "comparison_group").items():
        grid = sorted(found["epsilon"].dropna().unique())
        shown = grid if len(grid) <= 3 else [grid[0], grid[len(grid) // 2], grid[-1]]
        group = summary.groups[key]
        found = found[found["epsilon"].isna() | found["epsilon"].isin(shown)]
        spread = {name.removesuffix("_median") for name in found["measure"] if name.endswith("_median")}
        column = functools.partial(_column_of, spread=spread, measures=summary.measures)
        yield _table(f"Measures, {title_of(group)}", found, column, _notes(group))


def _column_of(row: Any, spread: Collection[str], measures: Mapping[str, Any]) -> str:
    """Title of a measure's column; the mean is called so where quantiles of the measure stand beside it."""
    if row.measure == "worst_case_accuracy":
        return f"worst case % at {epsilon_name(row.epsilon)}"
    if row.measure == "clean_accuracy":
        return "clean %"
    name, _, quantile = row.measure.rpartition("_")
    if name in spread and quantile in _QUANTILES:
        return f"{measure_title(name, measures)} {_QUANTILES[quantile]}"
    return f"{measure_title(row.measure, measures)}{' mean' if row.measure in spread else ''}"


def _corruption_tables(rows: pd.DataFrame) -> Iterator[Table]:
    """Mean corruption error of all networks, and for each its error under every corruption at every severity."""
    total = rows[rows["measure"] == "mean_corruption_error"]
    note = "Mean of the errors under 15 corruptions at 5 severities, not divided by a baseline's. " + _INTERVALS
    for data, found in split(total, "data").items():
        yield _table(f"Mean corruption error %, {data}", found, lambda row: "mean corruption error", [note])
    cells = rows[rows["measure"] == "test_accuracy"]
    for _, found in cells.groupby(["comparison_group", "settings"], sort=False):
        by_view = {row.view: row for row in records(found)}
        first = found.iloc[0]
        lines = [
            [Cell(name.replace("_", " ")), *(_error(by_view.get(f"{name}_{at}")) for at in SEVERITIES)]
            for name in BENCHMARK
            if any(f"{name}_{at}" in by_view for at in SEVERITIES)
        ]
        columns = ["corruption", *(f"severity {severity}" for severity in SEVERITIES)]
        note = f"Interval over {first['interval']}."
        yield Table(f"Error %, {first['label']}, {first['data']}", columns, lines, [note])


def _error(row: Any) -> Cell:
    if row is None:
        return Cell("")
    return cell_of(row._replace(value=1 - row.value, low=1 - row.high, high=1 - row.low))


def show_run(directory: Path) -> None:
    """Print the numbers of the run in a directory."""
    for run in find_runs([directory])[0]:
        print_numbers(str(directory), run_row(run, with_interval))


def print_numbers(title: str, numbers: Mapping[str, str]) -> None:
    """Print accuracies and other numbers by name, one below the other."""
    rows = [(Cell(name), Cell(text)) for name, text in numbers.items()]
    Console().print(*terminal(Table(title, ("accuracy [95 % interval over images]", ""), rows), longest=len(rows)))


def overview(runs: Sequence[Run]) -> Table:
    """One row per run: percentages with standard errors, measures, how many checks did not pass."""
    rows = [run_row(run) for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[Cell(row.get(name, "")) for name in names] for row in rows]
    return Table("Runs, accuracy ± standard error over images", names, cells, fixed=2)


def with_error(share: Estimate) -> str:
    """A percentage with its standard error."""
    return f"{100 * share.value:.1f} ± {100 * share.standard_error:.1f}"


def with_interval(share: Estimate) -> str:
    """A percentage with Wilson's interval over images."""
    low, high = (float(end) for end in share_interval(*share))
    return f"{100 * share.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def run_row(run: Run, text: Callable[[Estimate], str] = with_error) -> dict[str, str]:
    """Numbers of a run, as texts by their titles; `text` writes the accuracies under attack."""
    row = {"network": run.name, "seed": str(run.seed)}
    if run.summary["parameters"] is not None:  # of a saved report neither is known
        row |= {"parameters": f"{run.summary['parameters']:,}"}
        row |= {"clean, whole test set %": f"{100 * run.summary['clean_accuracy']:.1f}"}
    for kind in VIEWS:
        row |= {f"{kind} {at:g} %": f"{100 * accuracy:.1f}" for at, accuracy in run.views(kind).items()}
    if (final := run.evaluations.get(FINAL)) is None:
        return row
    row["images attacked"] = f"{len(final.report):,}"
    for attack in final.report.minimal_epsilon:
        for epsilon in final.report.epsilons:
            row[f"{attack} {epsilon_name(epsilon)} %"] = text(final.report.accuracy(attack, epsilon))
    row |= {title: mean_text(mean) for title, mean in titled_means(final.means, final.measures)}
    counts = count_checks(final.report.checks)
    row["checks"] = ", ".join(f"{counts[s]} {s}" for s in ("failed", "warned") if counts[s]) or "passed"
    return row


def titled_means(
    means: Mapping[str, Mapping[str, Estimate]], measures: Mapping[str, Any]
) -> Iterator[tuple[str, Estimate]]:
    """Means of all measures with their titles, by the settings of the measures."""
    for measure, arrays in means.items():
        for array, mean in arrays.items():
            yield measure_title(measure_name(measure, array), measures), mean


def mean_text(mean: Estimate) -> str:
    """A mean with its standard error where it has one; empty where nothing applied."""
    if np.isnan(mean.value):
        return ""
    return f"{mean.value:.3g}" if np.isnan(mean.standard_error) else f"{mean.value:.3g} ± {mean.standard_error:.2g}"
