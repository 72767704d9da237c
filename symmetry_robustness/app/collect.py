"""`symrob collect SWEEP`: results of all jobs in one table, and what to do about those that have none."""

import argparse
import csv
import io
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hydra.core.override_parser.types import Quote, QuotedString
from rich.console import Console
from rich.table import Table
from rich.text import Text

from symmetry_robustness.app.status_view import MARKS, TROUBLE, counts, why
from symmetry_robustness.errors import UserError
from symmetry_robustness.files import replace_file
from symmetry_robustness.reporting import table_formats as formats
from symmetry_robustness.reporting.table_formats import Cell, markdown
from symmetry_robustness.runs.exit_status import run_guarded
from symmetry_robustness.runs.json_files import read_mapping
from symmetry_robustness.runs.provenance import PROVENANCE
from symmetry_robustness.sweeps.plan import JOBS
from symmetry_robustness.sweeps.status import JobState, sweep_states

Row = dict[str, str]
_MOST: Final = 30  # rows of a kind on a terminal; the files hold all
_NO_RESULTS: Final = ("status", "name", "group", "seed", "data")  # of summary.json
# What is neither another type to Hydra nor beyond its grammar.
_PLAIN: Final = re.compile(r"(?!(?:null|true|false|nan|inf)$)[./]*[a-z_/][\w./-]*", re.ASCII | re.IGNORECASE)

_TITLES: Final = {"clean_accuracy": "clean %", "clever": "CLEVER"}


def main(argv: Sequence[str] | None = None) -> int:
    """Write results.csv and results.md, print the table.

    Returns:
        0 if all jobs are done, else 1; 2 is the wrapper's for a user's mistake.
    """
    parser = argparse.ArgumentParser(prog="symrob collect", description="results of a sweep in one table")
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="directory of the sweep")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="CSV file, beside which the same goes as .md; SWEEP/results.csv by default",
    )
    arguments = parser.parse_args(argv)
    output = arguments.output
    if output is not None and (
        output.suffix == ".md" or output.name == "" or (output.exists() and not output.is_file())
    ):
        raise UserError(f"--output {output} is no place for a CSV file; give one, beside which the same goes as .md")
    return final_table(arguments.sweep, output)


def final_table(sweep: Path, output: Path | None = None) -> int:
    """Tell what became of a sweep's jobs: on standard output, in a CSV file, and in Markdown beside it.

    Nothing is changed in run directories.

    Args:
        sweep: the sweep's directory.
        output: the CSV file; results.csv in the sweep's directory by default.

    Returns:
        0 if all jobs are done, else 1.

    Raises:
        UserError: there is no such sweep.
        OSError: the files cannot be written; the table is printed before.
    """
    states = sweep_states(sweep)
    console = Console(width=None if sys.stdout.isatty() else 160)
    done = [state for state in states if state.state == "done"]
    if done:
        console.print(_results_table(done, console.width))
    _print_trouble(console, states)
    console.print(counts(states), soft_wrap=True)
    for line in _remedies(sweep, states):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    rows = [result_row(state) for state in states]
    output = output or sweep / "results.csv"
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, _comma_separated(rows))
    replace_file(output.with_suffix(".md"), _markdown(rows, sweep.resolve().name))
    console.print(f"results: {output}, {output.with_suffix('.md')}", markup=False, highlight=False, soft_wrap=True)
    return 0 if len(done) == len(states) else 1


def result_row(state: JobState) -> Row:
    """What is known of a job, as texts: what it is, what became of it, and the numbers of its summary."""
    summary = state.results or {}
    seed = summary.get("seed", (read_mapping(state.directory / PROVENANCE) or {}).get("seed"))
    row = {
        "key": state.key,
        "job": state.label,
        "network": str(summary.get("name", "")),
        "seed": "" if seed is None else str(seed),
        "state": state.state,
    }
    row |= {name: repr(value) for name, value in _numbers(summary).items()}
    return row | {
        "error": state.error or "",
        "log": "" if state.log is None else str(state.log),
        "directory": str(state.directory),
    }


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The results in a summary, test sets by name where there are several."""
    found = {name: value for name, value in summary.items() if name not in _NO_RESULTS}
    tests = found.pop("test_accuracy", None)
    if isinstance(tests, dict) and len(tests) > 1:
        found |= {f"test_accuracy.{name}": value for name, value in tests.items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _columns(rows: Sequence[Row]) -> list[str]:
    """All columns; what is told of every job stands around the results."""
    first, last = ("key", "job", "network", "seed", "state"), ("error", "log", "directory")
    results = dict.fromkeys(name for row in rows for name in row if name not in (*first, *last))
    return [*first, *results, *last]


def _comma_separated(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(rows: Sequence[Row], title: str) -> str:
    names = _columns(rows)
    cells = [[Cell(row.get(name, "")) for name in names] for row in rows]
    return markdown(formats.Table(title, names, cells, fixed=len(names)))


def _results_table(done: Sequence[JobState], width: int) -> Table:
    """Accuracies of the jobs that are done, clean and against the worst of the attacks, as far as there is room."""
    found = [_numbers(state.results or {}) for state in done]
    names = dict.fromkeys(name for numbers in found for name in numbers)
    worst = [name for name in names if name.startswith("worst_case.")]
    shown = ["clean_accuracy", *worst, *(["clever"] if "clever" in names else [])]
    job = min(max(len(state.label) for state in done), width // 2)
    shown = shown[: max(1, (width - job) // 15)]
    table = Table(title="done", title_justify="left", caption_justify="left")
    table.add_column("job", no_wrap=True, max_width=job)
    for name in shown:
        table.add_column(_TITLES.get(name) or f"{name.removeprefix('worst_case.')} %", justify="right")
    for state, numbers in [*zip(done, found, strict=True)][:_MOST]:
        table.add_row(Text(state.label), *(_shown(name, numbers.get(name)) for name in shown))
    if len(done) > _MOST:
        table.caption = f"{len(done) - _MOST:,} more in the files"
    return table


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if name == "clever" else f"{100 * value:.1f}"


def _print_trouble(console: Console, states: Sequence[JobState]) -> None:
    """Jobs that did not end well: why, and where more stands."""
    now = time.time()
    trouble = sorted((s for s in states if s.state in TROUBLE), key=lambda state: TROUBLE.index(state.state))
    for state in trouble[:_MOST]:
        mark, style = MARKS[state.state]
        line = Text.assemble((f"{mark} {state.state}  ", style), (state.label, "bold"), f"  {why(state, now)}")
        if state.log is not None:
            line.append(f"\n  {state.log}", "dim")
        console.print(line, soft_wrap=True)
    if len(trouble) > _MOST:
        console.print(Text(f"… and {len(trouble) - _MOST:,} more in the files", "dim"))


def _remedies(sweep: Path, states: Sequence[JobState]) -> list[str]:
    """What to do about jobs that are not done."""
    going = sum(state.state == "running" for state in states)
    status = shlex.join(["symrob", "status", str(sweep)])
    lines = [f"{going} still running: look with `{status}`, collect again later"] if going else []
    commands = [_command(sweep, state) for state in states if state.state not in ("running", "done")]
    known = [command for command in commands if command]
    if known:
        distinct = [*dict.fromkeys(known)]
        again = "command again runs" if len(distinct) == 1 else "commands again run"
        lines += [f"the same {again} only what is missing ({len(known)}):", *(f"  {command}" for command in distinct)]
    if unknown := len(commands) - len(known):
        lines.append(f"the command they were started with, given again, runs only what is missing ({unknown})")
    return lines


def _command(sweep: Path, state: JobState) -> str | None:
    """The last command that was about a job, for a shell; None where the manifest does not tell."""
    words = (read_mapping(sweep / JOBS / f"{state.key}.json") or {}).get("words")
    if not isinstance(words, list):
        return None
    # Without its place a later start would choose a new one.
    kept = [str(word) for word in words if not str(word).startswith("hydra.sweep.dir=")]
    return shlex.join(["symrob", "train", *kept, f"hydra.sweep.dir={_hydra_text(str(sweep))}"])


def _hydra_text(text: str) -> str:
    """A text as Hydra reads it from the command line, in quotes unless its grammar takes it as it stands."""
    return text if _PLAIN.fullmatch(text) else QuotedString(text, Quote.double).with_quotes()


if __name__ == "__main__":
    sys.exit(run_guarded(main))
