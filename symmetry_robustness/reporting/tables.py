"""Tables from runs: plain rows first, then whatever a reader wants to see them in."""

import csv
import io
from collections.abc import Sequence

from rich.table import Table

from symmetry_robustness.reporting.figures import epsilon_name
from symmetry_robustness.reporting.runs import VIEWS, Run

Row = dict[str, str]
_SIDE_BY_SIDE = 4  # runs whose columns fit into a usual terminal


def result_rows(runs: Sequence[Run]) -> list[Row]:
    """One row per run: percentages with standard errors, CLEVER, other measures, how many checks did not pass."""
    rows = []
    for run in runs:
        summary = run.summary
        row = {"network": run.name, "seed": str(summary["seed"]), "parameters": f"{summary['parameters']:,}"}
        row["clean, whole test set %"] = f"{100 * summary['clean_accuracy']:.1f}"
        for kind in VIEWS:
            row |= {f"{kind} {at:g} %": f"{100 * accuracy:.1f}" for at, accuracy in run.views(kind).items()}
        if run.report:
            row["images attacked"] = f"{run.report['images']:,}"
        for attack in run.attacks:
            for epsilon, share, error in list(zip(*run.curve(attack), strict=True))[1:]:
                row[f"{attack} {epsilon_name(epsilon)} %"] = f"{100 * share:.1f} ± {100 * error:.1f}"
        if run.report:
            if "clever" in summary:
                row["CLEVER"] = f"{summary['clever']:.3f}"
            for measure, means in run.report.get("measures", {}).items():
                for array, mean in means.items():
                    row[measure_title(measure, array)] = measured(mean["value"], mean["standard_error"])
            states = [check["status"] for check in run.report["checks"]]
            row["checks"] = ", ".join(f"{states.count(s)} {s}" for s in ("failed", "warned") if s in states) or "passed"
        rows.append(row)
    return rows


def measure_title(measure: str, array: str) -> str:
    """What a measure's mean is called: the measure, and the array where it has more than a value."""
    return " ".join(f"{measure} {'' if array == 'value' else array}".replace("_", " ").replace(".", " ").split())


def measured(value: float | None, error: float | None) -> str:
    """A mean with its standard error where it has one; empty where nothing applied."""
    if value is None:
        return ""
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"


def columns(rows: Sequence[Row]) -> list[str]:
    """Every column of any row, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def markdown(rows: Sequence[Row]) -> str:
    """A GitHub-flavoured table."""
    names = columns(rows)
    lines = [names, [":--", *["--:"] * (len(names) - 1)], *([row.get(n, "") for n in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comma_separated(rows: Sequence[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def terminal(rows: Sequence[Row], title: str) -> Table:
    """The rows for a terminal: a few runs stand side by side, many below one another."""
    names = columns(rows)
    grid = [names, *([row.get(name, "") for name in names] for row in rows)]
    if len(rows) <= _SIDE_BY_SIDE:
        grid = [list(line) for line in zip(*grid, strict=True)]
    table = Table(title=title)
    for index, name in enumerate(grid[0]):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for line in grid[1:]:
        table.add_row(*line)
    return table
