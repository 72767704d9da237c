"""`symrob report RUN… --output DIR`: tables, figures and a page from runs, sweeps or saved reports."""

import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
from rich.console import Console

from symmetry_robustness.app.arguments import Parser, path
from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.aggregate import Summary, summarize
from symmetry_robustness.reporting.claims import Outcome, claims_table, judge_claims, load_claims
from symmetry_robustness.reporting.figures.from_runs import write_figures
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import Problem, Run, find_runs
from symmetry_robustness.reporting.page.page import write_page
from symmetry_robustness.reporting.page.questions import Question, answers, find_questions, in_order
from symmetry_robustness.reporting.sandwich import sandwich_tables, sandwiches
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet, flag, terminal
from symmetry_robustness.reporting.tables import aside_notes, cell_of, overview, table_sets, title_of
from symmetry_robustness.reporting.tradeoff import tradeoff_tables, tradeoffs
from symmetry_robustness.reporting.transfer import transfer_rows, transfer_tables
from symmetry_robustness.runs.exit_status import run_guarded

_ANSWERS: Final = 5  # protocols and data sets that are answered on the terminal
_VERDICTS: Final = {
    "best": "better than every other network",
    "chance": "this may be chance",
    "single": "better than every other, of one training each",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer of the runs; write tables, figures and adversarial examples.

    Returns:
        0; 2 is the wrapper's for a user's mistake.
    """
    parser = Parser(prog="symrob report", description="tables and figures from run directories")
    parser.add_argument(
        "runs", nargs="+", type=path, metavar="RUN", help="directory of a run, a sweep or saved reports"
    )
    parser.add_argument("--output", type=path, required=True, metavar="DIR", help="where tables and figures go")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    require_writable(arguments.output)
    runs, problems = find_runs(arguments.runs)
    frame = frame_of(runs, problems)
    left_out = [Problem(**problem) for problem in frame.attrs["problems"]]
    if not runs:
        kinds = Counter(problem.kind for problem in left_out)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise UserError(
            f"none of the {len(left_out)} runs or reports found can be used ({counts}); the first is {left_out[0]}; "
            "finish it, or evaluate it again"
        )
    for problem in left_out:
        print(f"left out: {problem}", file=sys.stderr)
    write_report(runs, frame, arguments.output)
    return 0


def require_writable(output: Path) -> None:
    """Refuse a directory into which no report can be written, before any work; leaves nothing behind.

    Raises:
        UserError: names it.
    """
    folders = [output / "figures", output / "tables"]
    made = [folder for folder in (*folders, output, *output.parents) if not folder.exists()]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error.strerror}); give another directory") from None
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def write_report(runs: list[Run], frame: pd.DataFrame, output: Path) -> None:
    """Write everything into `output`, and print the answer with at most a screenful of numbers."""
    summary = summarize(frame, runs)
    claims = load_claims()
    measured = {str(data).partition(" ")[0] for data in frame["data"]}
    outcomes = judge_claims(claims, summary, runs) if measured & {claim.data for claim in claims.claims} else []
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    print_answers(console, runs, frame, summary)
    tables = write_tables(runs, frame, summary, outcomes, output / "tables")
    for note in write_figures(runs, summary, output / "figures"):
        console.print(f"figures: {note}", markup=False)
    write_page(output / "report.html", runs, frame, summary, tables)
    console.print(f"page: {output / 'report.html'}; tables and figures beside it", markup=False, soft_wrap=True)


def print_answers(console: Console, runs: list[Run], frame: pd.DataFrame, summary: Summary) -> None:
    """The page's first answers in two lines each, then the numbers of the first; without attacks the runs."""
    questions = find_questions(summary, frame)
    attacked = [questions[number] for number in in_order(questions) if questions[number].norm]
    for question in attacked[:_ANSWERS]:
        attack, first = question.attacks[0], question.first
        found = answers(question, summary)[0][first]
        lines = [_sentence(found, summary), *aside_notes(found["aside"])]
        heading = f"{title_of(question.group)}, {attack.title}, {attack.places[first]}:"
        console.print(heading, *(f"  {line}" for line in lines), sep="\n", markup=False, soft_wrap=True)
    if (more := len(attacked) - _ANSWERS) > 0:
        console.print(
            f"{more} more {'protocol or data set is' if more == 1 else 'protocols or data sets are'} on the page"
        )
    table = _first_numbers(attacked[0]) if attacked else overview(runs)
    console.print(terminal(table, longest=12)[0])


def _first_numbers(question: Question) -> Table:
    """Accuracies without attack, and at the smallest, the first shown and the largest epsilon."""
    attack = question.attacks[0]
    points = list(attack.points.values())
    shown = sorted({0, 1, question.first, len(points) - 1} & {*range(len(points))})
    ranked = sorted(points[question.first].values(), key=lambda row: -row.value)
    rows = [
        [Cell(f"{row.label}{flag(row.checks)}"), *(cell_of(points[at][row.settings]) for at in shown)] for row in ranked
    ]
    title = f"Accuracy %, {title_of(question.group)}"
    return Table(title, ["network", *(attack.places[at] for at in shown)], rows)


def _sentence(found: Mapping[str, Any], summary: Summary) -> str:
    """An answer of the page in a line."""
    best, other = found["best"], found["next"]
    accuracy = f"{best.label} has {cell_of(best).text} %"
    if found["verdict"] == "nobody":
        why = "is better than chance without attack" if best.value else "is robust"
        return f"no network {why}: {accuracy}"
    if other is None:
        return f"{accuracy}, and {'no other may lead' if found['aside'] else 'is alone'}"
    if found["verdict"] == "equal":
        return f"no network leads: {accuracy}, and so has {other.label}"
    _, _, gap, test = found["over"][0]
    if found["verdict"] == "untested" or test is None:
        return f"{accuracy}, {100 * gap:.3g} points more than {other.label}; no test could compare all networks"
    # Of the seeds that both have, which may differ from the difference of the two means.
    gap, low, high = (f"{100 * value:.3g}" for value in (test.value, test.low, test.high))
    here = summary.elsewhere.isdisjoint((best.settings, other.settings))  # others may state no seed
    rests = "by their common seeds" if here else "on the same images"
    margin = f"{gap} [{low}, {high}] points more than {other.label} {rests}"
    return f"{accuracy}, {margin}; {_VERDICTS[found['verdict']]} (p = {test.adjusted:.2g})"


def write_tables(
    runs: list[Run], frame: pd.DataFrame, summary: Summary, claims: list[Outcome], directory: Path
) -> list[TableSet]:
    """Every kind of table of which there is something as Markdown, LaTeX, CSV and Parquet."""
    directory.mkdir(parents=True, exist_ok=True)
    made = [
        *table_sets(summary),
        claims_table(claims),
        TableSet("runs", [overview(runs)], frame),
        transfer_tables(transfer_rows(runs)),
        sandwich_tables(sandwiches(runs)),
        tradeoff_tables(tradeoffs(summary, runs), summary.guessing),
    ]
    made = [tables for tables in made if tables.tables]
    for tables in made:
        tables.write(directory)
    return made


if __name__ == "__main__":
    sys.exit(run_guarded(main))
