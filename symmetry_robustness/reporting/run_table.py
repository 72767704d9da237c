"""Runs side by side: every number of each in a row, as after a training."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from symmetry_robustness.reporting.figures import epsilon_name
from symmetry_robustness.reporting.runs import VIEWS, Run, find_runs
from symmetry_robustness.reporting.table_formats import Cell, Table, terminal

Row = dict[str, str]


def show_run(directory: Path) -> None:
    """Print the numbers of the run in a directory, one below the other."""
    runs, _ = find_runs([directory])
    for run in runs:
        rows = [(Cell(name), Cell(text)) for name, text in run_row(run).items()]
        for piece in terminal(Table(str(directory), ("accuracy ± standard error", ""), rows), longest=len(rows)):
            Console().print(piece)


def overview(runs: Sequence[Run]) -> Table:
    """One row per run: percentages with standard errors, CLEVER, other measures, how many checks did not pass."""
    rows = [run_row(run) for run in runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[Cell(row.get(name, "")) for name in names] for row in rows]
    return Table("Runs, accuracy ± standard error over images", names, cells, fixed=2)


def run_row(run: Run) -> Row:
    """What a run found, as texts by their titles."""
    row = {"network": run.name, "seed": str(run.seed), "parameters": f"{run.summary['parameters']:,}"}
    row["clean, whole test set %"] = f"{100 * run.summary['clean_accuracy']:.1f}"
    for kind in VIEWS:
        row |= {f"{kind} {at:g} %": f"{100 * accuracy:.1f}" for at, accuracy in run.views(kind).items()}
    if run.final is None:
        return row
    row["images attacked"] = f"{len(run.final.indices):,}"
    for attack in run.attacks:
        for epsilon, share, error in list(zip(*run.curve(attack), strict=True))[1:]:
            row[f"{attack} {epsilon_name(epsilon)} %"] = f"{100 * share:.1f} ± {100 * error:.1f}"
    if run.summary.get("clever") is not None:
        row["CLEVER"] = f"{run.summary['clever']:.3f}"
    for measure, means in run.final.content["measures"].items():
        if measure == "clever":
            continue
        for array, mean in means.items():
            row[measure_title(measure, array)] = measured(mean["value"], mean["standard_error"])
    states = [check["status"] for check in run.final.content["checks"]]
    row["checks"] = ", ".join(f"{states.count(s)} {s}" for s in ("failed", "warned") if s in states) or "passed"
    return row


def measure_title(measure: str, array: str = "value") -> str:
    """What a measure's mean is called: the measure, and the array where it has more than a value."""
    if measure == "clever":
        return "CLEVER"
    return " ".join(f"{measure} {'' if array == 'value' else array}".replace("_", " ").replace(".", " ").split())


def measured(value: float | None, error: float | None) -> str:
    """A mean with its standard error where it has one; empty where nothing applied."""
    if value is None:
        return ""
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"
