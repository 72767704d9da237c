"""`symrob collect SWEEP`: the results of all jobs in one table, and the commands that run the missing ones."""

import csv
import io
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hydra.core.override_parser.types import Quote, QuotedString
from rich.table import Table
from rich.text import Text

from symmetry_robustness.app.arguments import Parser, path
from symmetry_robustness.app.status_view import MARKS, Label, console, counts, in_trouble, why
from symmetry_robustness.errors import UserError
from symmetry_robustness.files import replace_file
from symmetry_robustness.reporting import table_formats
from symmetry_robustness.results.names import WORST_CASE, epsilon_name
from symmetry_robustness.runs.exit_status import run_guarded
from symmetry_robustness.runs.json_files import read_mapping
from symmetry_robustness.runs.provenance import PROVENANCE
from symmetry_robustness.sweeps.plan import JOBS, recorded_argv
from symmetry_robustness.sweeps.status import JobState, sweep_states

_MOST: Final = 30  # rows of a kind on a terminal; the files hold all
_NO_RESULTS: Final = ("status", "name", "group", "seed", "data")  # of summary.json
_FIRST, _LAST = ("key", "job", "network", "seed", "state"), ("error", "log", "directory")  # columns around the results
# Text that Hydra's grammar reads as a string without quotes.
_PLAIN: Final = re.compile(r"(?!(?:null|true|false|nan|inf)$)[./]*[a-z_/][\w./-]*", re.ASCII | re.IGNORECASE)


def main(argv: Sequence[str] | None = None) -> int:
    """Write results.csv and results.md, print the table.

    Returns:
        0 if all jobs are done, else 1.
    """
    parser = Parser(prog="symrob collect", description="results of a sweep in one table")
    parser.add_argument("sweep", type=path, metavar="SWEEP", help="directory of the sweep")
    about = "CSV file, beside which the same goes as .md; SWEEP/results.csv by default"
    parser.add_argument("--output", type=path, metavar="FILE", help=about)
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    output = arguments.output
    if output and (output.suffix == ".md" or output.name == "" or (output.exists() and not output.is_file())):
        raise UserError(f"--output {output} is no name of a CSV file; give one, beside which the same goes as .md")
    return collect(arguments.sweep, output)


def collect(sweep: Path, output: Path | None = None) -> int:
    """Report the outcome of a sweep's jobs on standard output, in a CSV file, and in Markdown beside it.

    Nothing in run directories is changed.

    Returns:
        0 if all jobs are done, else 1.

    Raises:
        UserError: no such sweep.
        OSError: the files cannot be written; the table is printed before.
    """
    states, terminal, now = sweep_states(sweep), console(), time.time()
    done, trouble = [state for state in states if state.state == "done"], in_trouble(states)
    if done:
        terminal.print(_results_table(done, terminal.width))
    lines: list[Text | str] = []
    for state in trouble[:_MOST]:
        mark, style = MARKS[state.state]
        lines.append(Text.assemble((f"{mark} {state.state}  ", style), (state.label, "bold"), f"  {why(state, now)}"))
        lines += [] if state.log is None else [Text(f"  {state.log}", "dim")]
    if len(trouble) > _MOST:
        lines.append(Text(f"… and {len(trouble) - _MOST:,} more in the files", "dim"))
    for line in [*lines, counts(states), *_remedies(sweep, states)]:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    rows = [result_row(state) for state in states]
    columns = [*_FIRST, *dict.fromkeys(name for row in rows for name in row if name not in _FIRST + _LAST), *_LAST]
    output = output or sweep / "results.csv"
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(output, content.getvalue())
    cells = [[table_formats.Cell(row.get(name, "")) for name in columns] for row in rows]
    table = table_formats.Table(sweep.resolve().name, columns, cells, fixed=len(columns))
    replace_file(output.with_suffix(".md"), table_formats.markdown(table))
    terminal.print(f"results: {output}, {output.with_suffix('.md')}", markup=False, highlight=False, soft_wrap=True)
    return 0 if len(done) == len(states) else 1


def result_row(state: JobState) -> dict[str, str]:
    """The identity of a job, its outcome, and the numbers of its summary, as strings."""
    summary = state.results or {}
    seed = summary.get("seed", (read_mapping(state.directory / PROVENANCE) or {}).get("seed"))
    return {
        "key": state.key,
        "job": state.label,
        "network": str(summary.get("name", "")),
        "seed": "" if seed is None else str(seed),
        "state": state.state,
        **{name: repr(value) for name, value in _numbers(summary).items()},
        "error": state.error or "",
        "log": "" if state.log is None else str(state.log),
        "directory": str(state.directory),
    }


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The results in a summary; of several test sets each has its name."""
    found = {name: value for name, value in summary.items() if name not in _NO_RESULTS}
    tests = found.pop("test_accuracy", None)
    if isinstance(tests, dict) and len(tests) > 1:
        found |= {f"test_accuracy.{name}": value for name, value in tests.items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _results_table(done: Sequence[JobState], width: int) -> Table:
    """Clean accuracies of done jobs and those against the worst of the attacks, as far as there is room."""
    found = [(state.label, _numbers(state.results or {})) for state in done]
    worst = dict.fromkeys(name for _, row in found for name in row if name.startswith(f"{WORST_CASE}."))
    job = min(max(len(label) for label, _ in found), width // 2)
    shown = ["clean_accuracy", *worst][: max(1, (width - job) // 15)]
    left_out = f"{len(done) - _MOST:,} more in the files" if len(done) > _MOST else None
    table = Table(title="done", caption=left_out, title_justify="left", caption_justify="left")
    table.add_column("job", no_wrap=True, max_width=job)
    for name in shown:
        table.add_column(f"{_heading(name)} %", justify="right")
    for label, numbers in found[:_MOST]:
        table.add_row(Label(label), *(f"{100 * numbers[name]:.1f}" if name in numbers else "" for name in shown))
    return table


def _heading(name: str) -> str:
    """A number of a summary as people write it: `worst case, linf 8/255`."""
    if not name.startswith(f"{WORST_CASE}."):
        return name.removesuffix("_accuracy")
    norm, _, epsilon = name.removeprefix(f"{WORST_CASE}.").partition("_")
    return f"worst case, {norm} {epsilon_name(float(epsilon))}"


def _remedies(sweep: Path, states: Sequence[JobState]) -> Iterator[str]:
    """The commands that run or watch the jobs that are not done."""
    if running := sum(state.state == "running" for state in states):
        status = shlex.join(["symrob", "status", str(sweep)])
        yield f"{running} still running: watch with `{status}`, collect again later"
    commands = [_command(sweep, state) for state in states if state.state not in ("running", "done")]
    distinct = [*dict.fromkeys(command for command in commands if command)]
    unknown = commands.count(None)
    if distinct:
        again = "command again runs" if len(distinct) == 1 else "commands again run"
        yield f"the same {again} only what is missing ({len(commands) - unknown}):"
        yield from (f"  {command}" for command in distinct)
    if unknown:
        yield f"the command they were started with, given again, runs only what is missing ({unknown})"


def _command(sweep: Path, state: JobState) -> str | None:
    """The last command about a job, for a shell; None if the manifest does not tell."""
    argv = recorded_argv(read_mapping(sweep / JOBS / f"{state.key}.json") or {})
    if argv is None:
        return None
    # Without its directory a later start would choose a new one.
    others = [word for word in argv if not word.startswith("hydra.sweep.dir=")]
    quoted = str(sweep) if _PLAIN.fullmatch(str(sweep)) else QuotedString(str(sweep), Quote.double).with_quotes()
    return shlex.join(["symrob", "train", *others, f"hydra.sweep.dir={quoted}"])


if __name__ == "__main__":
    sys.exit(run_guarded(main))
