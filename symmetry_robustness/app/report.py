"""`symrob report RUN… --output DIR`: tables, figures and a page from runs, sweeps or saved reports."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from rich.console import Console

from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.aggregate import Summary, summarize
from symmetry_robustness.reporting.claims import Outcome, claims_table, judge_claims, load_claims
from symmetry_robustness.reporting.figures.from_runs import write_figures
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import Problem, Run, find_runs
from symmetry_robustness.reporting.page.page import write_page
from symmetry_robustness.reporting.table_formats import TableSet, terminal
from symmetry_robustness.reporting.tables import answers, overview, table_sets
from symmetry_robustness.results.checks import EXPLANATIONS
from symmetry_robustness.runs.exit_status import run_guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer of the runs; write tables, figures and adversarial examples.

    Returns:
        0; 2 is the wrapper's for a user's mistake.
    """
    parser = argparse.ArgumentParser(prog="symrob report", description="tables and figures from run directories")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="directory of a run, a sweep or saved reports"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where tables and figures go")
    arguments = parser.parse_args(argv)
    runs, problems = find_runs(arguments.runs)
    frame = frame_of(runs, problems)
    for problem in frame.attrs["problems"]:
        print(f"left out: {Problem(**problem)}", file=sys.stderr)
    if not runs:
        raise UserError(f"none of the {len(problems)} runs found is finished; nothing to report")
    write_report(runs, frame, arguments.output)
    return 0


def write_report(runs: list[Run], frame: pd.DataFrame, output: Path) -> None:
    """Write everything into `output`, and print the answer with at most a screenful of numbers."""
    summary = summarize(frame, runs)
    claims = judge_claims(load_claims(), summary, runs)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    lines, table = answers(summary)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    for piece in terminal(overview(runs) if table is None else table, longest=12)[:1]:
        console.print(piece)
    tables = write_tables(runs, frame, summary, claims, output / "tables")
    for note in write_figures(runs, summary, output / "figures"):
        console.print(f"figures: {note}", markup=False)
    made = datetime.now(UTC).date().isoformat()
    write_page(output / "report.html", runs, frame, summary, tables, made=made, checks=EXPLANATIONS)
    console.print(f"page: {output / 'report.html'}; tables and figures beside it", markup=False, soft_wrap=True)


def write_tables(
    runs: list[Run], frame: pd.DataFrame, summary: Summary, claims: list[Outcome], directory: Path
) -> list[TableSet]:
    """Every kind of table as Markdown, LaTeX, CSV and Parquet."""
    directory.mkdir(parents=True, exist_ok=True)
    made = [*table_sets(summary), claims_table(claims), TableSet("runs", [overview(runs)], frame)]
    for tables in made:
        tables.write(directory)
    return made


if __name__ == "__main__":
    sys.exit(run_guarded(main))
