"""`symrob report RUN… --output DIR`: tables and figures from run or sweep directories."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.aggregate import Summary, summarize
from symmetry_robustness.reporting.claims import Outcome, judge_claims, load_claims
from symmetry_robustness.reporting.claims_table import claims_sheet
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.page import render_page
from symmetry_robustness.reporting.page_data import all_details, make_page
from symmetry_robustness.reporting.report_figures import write_figures
from symmetry_robustness.reporting.run_table import overview
from symmetry_robustness.reporting.runs import Problem, Run, find_runs
from symmetry_robustness.reporting.table_formats import terminal
from symmetry_robustness.reporting.tables import Sheet, sheets
from symmetry_robustness.results.checks import EXPLANATIONS
from symmetry_robustness.runs.exit_status import run_guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Print what the runs come to; write tables, figures and adversarial examples.

    Returns:
        0; 2 is the wrapper's for a user's mistake.
    """
    parser = argparse.ArgumentParser(prog="symrob report", description="tables and figures from run directories")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run or sweep directory")
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
    """Write everything into `output`, and print the tables."""
    summary = summarize(frame, runs)
    claims = judge_claims(load_claims(), summary, runs)
    write_tables(runs, frame, summary, claims, output / "tables")
    for note in write_figures(runs, summary, output / "figures", remove_values):
        print(f"figures: {note}")
    page = make_page(runs, frame, summary, claims, made=datetime.now(UTC).date().isoformat(), checks=EXPLANATIONS)
    (output / "report.html").write_text(render_page(page, all_details(runs)), encoding="utf-8")
    print(f"page: {output / 'report.html'}; tables and figures beside it")


def write_tables(
    runs: list[Run], frame: pd.DataFrame, summary: Summary, claims: list[Outcome], directory: Path
) -> None:
    """Every kind of table as Markdown, LaTeX, CSV and Parquet; who leads, or single runs, on the terminal."""
    directory.mkdir(parents=True, exist_ok=True)
    every_run = Sheet("runs", [overview(runs)], frame)
    made = {sheet.name: sheet for sheet in (*sheets(summary), claims_sheet(claims), every_run)}
    for sheet in made.values():
        sheet.write(directory)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in made.get("leaders", every_run).tables:
        for piece in terminal(table):
            console.print(piece)


def remove_values(
    images: NDArray[np.float32], shares: NDArray[np.float64], numbers: NDArray[np.int64], seed: int
) -> NDArray[np.float32]:
    """What is left of images at their removal tolerance; only reports that measured it wait for torch."""
    from symmetry_robustness.robustness.measures.pixel_removal import removed

    return removed(images, shares, numbers, seed)


if __name__ == "__main__":
    sys.exit(run_guarded(main))
