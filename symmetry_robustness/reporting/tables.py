"""The report's tables: rows of numbers once, then texts that formats.py writes in every form."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from symmetry_robustness.reporting.aggregate import COLUMN, SHARES, Section, Summary
from symmetry_robustness.reporting.figures import epsilon_name
from symmetry_robustness.reporting.frame import BENCHMARK, CORRUPTED, COSTS, SEVERITIES, records, split
from symmetry_robustness.reporting.run_table import measure_title
from symmetry_robustness.reporting.table_formats import Cell, Table, flag, latex, markdown

_INTERVALS = "Mean and 95 % interval: over seeds and images, with one seed over images, as the column says."
_BEST = "Bold: better than every other in a paired test over several seeds (5 % for each column, after Holm)."
_CLEVER = {
    "clever": "CLEVER mean",
    "clever_q25": "CLEVER lower quartile",
    "clever_median": "CLEVER median",
    "clever_q75": "CLEVER upper quartile",
}
_COST_TITLES = ("parameters", "FLOPs per image", "training s", "images/s in training")


@dataclass(frozen=True)
class Sheet:
    """Tables of one kind, and the rows of numbers that they show.

    Attributes:
        name: stem of the files.
        tables: as texts.
        rows: the same and more as numbers.
    """

    name: str
    tables: Sequence[Table]
    rows: pd.DataFrame

    def write(self, directory: Path) -> None:
        """Write Markdown and LaTeX of the tables, CSV and Parquet of the rows."""
        stem = directory / self.name
        stem.with_suffix(".md").write_text("\n".join(map(markdown, self.tables)), encoding="utf-8")
        stem.with_suffix(".tex").write_text("\n".join(map(latex, self.tables)), encoding="utf-8")
        self.rows.to_csv(stem.with_suffix(".csv"), index=False)
        self.rows.to_parquet(stem.with_suffix(".parquet"), index=False)


def sheets(summary: Summary) -> list[Sheet]:
    """All tables but the claims; kinds of which there is nothing are left out."""
    results = summary.results
    corrupted = results[results["view"].isin(CORRUPTED) | (results["measure"] == "mean_corruption_error")]
    made = [
        Sheet(
            "accuracy", [*_accuracy_tables(summary)], results[results["measure"].isin(SHARES) & (results["view"] == "")]
        ),
        Sheet("leaders", [*_leader_tables(summary)], summary.comparisons),
        Sheet("measures", [*_measure_tables(summary)], results[~results["measure"].isin([*COSTS, *SHARES])]),
        Sheet("corruptions", [*_corruption_tables(corrupted)], corrupted),
        Sheet("costs", _cost_tables(results), results[results["measure"].isin(COSTS)]),
    ]
    return [sheet for sheet in made if sheet.tables]


def title_of(section: Section) -> str:
    """Which data, how many images and which protocol, in one line."""
    kind = "released" if section.released else "sound"
    images = "all" if section.images is None else f"{section.images:,}"
    protocol = f"protocol {section.protocol} ({kind})" if section.protocol else "no attack"
    return f"{section.data}, {images} {section.split} images, {protocol}"


def percent(row: Any) -> Cell:
    """A share with its interval, in percent."""
    return _cell(row, lambda share: f"{100 * share:.1f}")


def number(row: Any) -> Cell:
    """A mean with its interval."""
    return _cell(row, lambda value: f"{value:.3g}")


def _amount(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cell(row: Any, text: Callable[[float], str]) -> Cell:
    mean = text(row.value)
    return Cell(mean if np.isnan(row.low) else f"{mean} [{text(row.low)}, {text(row.high)}]", bool(row.best))


def _table(
    title: str, rows: pd.DataFrame, column: Callable[[Any], str], cell: Callable[[Any], Cell], notes: Sequence[str]
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


def _notes(section: Section) -> list[str]:
    """What a reader must know to judge the numbers of a section."""
    notes = [f"{section.description[0].upper()}{section.description[1:]}. {_INTERVALS} {_BEST}"]
    if section.training_differs_in:
        notes.append(f"The networks' trainings differ in {section.training_differs_in}.")
    return notes


def _accuracy_tables(summary: Summary) -> Iterator[Table]:
    """For each section one table per attack, the columns being the epsilons, and one of the accuracies without."""
    by_section = split(summary.results, "section")
    for section in summary.sections.values():
        rows, title, notes = by_section[section.key], title_of(section), _notes(section)
        whole = rows[(rows["measure"] == "test_accuracy") & ~rows["view"].isin(CORRUPTED)]
        if len(whole):
            overall = "mean over the test sets" if rows["view"].any() else "clean"
            yield _table(f"Accuracy %, {title}", whole, lambda row, name=overall: row.view or name, percent, notes)  # type: ignore[misc]
        attacked = rows[rows["measure"].isin(["robust_accuracy", "worst_case_accuracy"])]
        clean = rows[(rows["measure"] == "clean_accuracy") & bool(len(attacked))]
        for attack, under in split(attacked, "attack").items():
            shown = pd.concat([clean, under])
            name = attack.replace("_", " ") or "worst case over attacks"
            norm = under["norm"].iloc[0]
            yield _table(f"Accuracy % under {name}, {norm}, {title}", shown, _epsilon, percent, notes)


def _epsilon(row: Any) -> str:
    return "clean" if np.isnan(row.epsilon) else f"ε = {epsilon_name(row.epsilon)}"


def _leader_tables(summary: Summary) -> Iterator[Table]:
    """For each section, which network leads each column, and by how much before the one that comes closest."""
    for key, found in split(summary.comparisons, "section").items():
        section = summary.sections[key]
        closest = found["value"].fillna(np.inf).groupby([found[name] for name in COLUMN], dropna=False, sort=False)
        lines = [[*map(Cell, _leader_texts(row))] for row in records(found.loc[closest.idxmin()])]
        columns = ("under", "ε", "leads", "before", "by", "adjusted p", "beats all others", "test")
        yield Table(f"Who leads, {title_of(section)}", columns, lines, _notes(section)[1:], fixed=4)


def _leader_texts(row: Any) -> list[str]:
    what = (row.attack or row.measure).replace("_", " ")
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
    """Accuracy without attack and in the worst case, CLEVER and the other measures of each section."""
    rows = summary.results
    attacked = rows["measure"] == "worst_case_accuracy"
    measured = rows[~rows["measure"].isin([*COSTS, *SHARES]) | attacked | (rows["measure"] == "clean_accuracy")]
    for key, found in split(measured[measured["section"] != ""], "section").items():
        grid = sorted(found["epsilon"].dropna().unique())
        shown = grid if len(grid) <= 3 else [grid[0], grid[len(grid) // 2], grid[-1]]
        section = summary.sections[key]
        found = found[found["epsilon"].isna() | found["epsilon"].isin(shown)]
        yield _table(f"Measures, {title_of(section)}", found, _measure_name, _measure_cell, _notes(section))


def _measure_name(row: Any) -> str:
    if row.measure == "worst_case_accuracy":
        return f"worst case % at {epsilon_name(row.epsilon)}"
    return "clean %" if row.measure == "clean_accuracy" else _CLEVER.get(row.measure, measure_title(row.measure))


def _measure_cell(row: Any) -> Cell:
    return percent(row) if row.measure in SHARES else number(row)


def _corruption_tables(rows: pd.DataFrame) -> Iterator[Table]:
    """Mean corruption error of all networks, and for each its error under every corruption at every severity."""
    total = rows[rows["measure"] == "mean_corruption_error"]
    note = "Mean of the errors under 15 corruptions at 5 severities, not divided by a baseline's. " + _INTERVALS
    for data, found in split(total, "data").items():
        yield _table(f"Mean corruption error %, {data}", found, lambda row: "mean corruption error", percent, [note])
    cells = rows[rows["measure"] == "test_accuracy"]
    for _, found in cells.groupby(["section", "settings"], sort=False):
        by_view = {row.view: row for row in records(found)}
        first = found.iloc[0]
        lines = []
        for corruption in BENCHMARK:
            errors = [_error(by_view.get(f"{corruption}_{severity}")) for severity in SEVERITIES]
            if any(cell.text for cell in errors):
                lines.append([Cell(corruption.replace("_", " ")), *errors])
        columns = ["corruption", *(f"severity {severity}" for severity in SEVERITIES)]
        note = f"Interval over {first['interval']}."
        yield Table(f"Error %, {first['label']}, {first['data']}", columns, lines, [note])


def _error(row: Any) -> Cell:
    if row is None:
        return Cell("")
    return percent(row._replace(value=1 - row.value, low=1 - row.high, high=1 - row.low))


def _cost_tables(results: pd.DataFrame) -> list[Table]:
    rows = results[results["measure"].isin(COSTS)]
    if not len(rows):
        return []
    titles = dict(zip(COSTS, _COST_TITLES, strict=True))

    def cell(row: Any) -> Cell:
        return Cell(f"{row.value:,.0f}") if row.measure in ("parameters", "flops") else _cell(row, _amount)

    note = "FLOPs: multiplications and additions of one image's forward pass. Seconds without evaluations."
    return [_table("Costs", rows, lambda row: titles[row.measure], cell, [note])]
