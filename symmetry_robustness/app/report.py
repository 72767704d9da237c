"""`symrob report RUN… --output DIR`: tables and figures from run or sweep directories."""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from symmetry_robustness.app.cli import guarded
from symmetry_robustness.errors import UserError
from symmetry_robustness.explanations import EXPLANATIONS
from symmetry_robustness.reporting.claims import Outcome, judge_claims, load_claims
from symmetry_robustness.reporting.claims_table import claims_sheet
from symmetry_robustness.reporting.figures import attack_panel, epsilon_curves, view_curves
from symmetry_robustness.reporting.formats import terminal
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.overview import overview
from symmetry_robustness.reporting.page import render_page
from symmetry_robustness.reporting.page_data import all_details, make_page
from symmetry_robustness.reporting.results import Summary, summarize
from symmetry_robustness.reporting.runs import VIEWS, Problem, Run, find_runs
from symmetry_robustness.reporting.tables import Sheet, sheets


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
    write_figures(runs, output)
    page = make_page(runs, frame, summary, claims, made=datetime.now(UTC).date().isoformat(), checks=EXPLANATIONS)
    (output / "report.html").write_text(render_page(page, all_details(runs)), encoding="utf-8")
    print(f"page: {output / 'report.html'}, tables and figures beside it")


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


def write_figures(runs: list[Run], output: Path) -> None:
    """Curves over epsilon and over views, adversarial examples."""
    for kind, x_label in VIEWS.items():
        seen: dict[str, list[dict[float, float]]] = {}
        for run in runs:
            if accuracies := run.views(kind):
                seen.setdefault(run.name, []).append(accuracies)
        if seen:
            save(view_curves(seen, x_label=x_label), output / kind)
    attacked = {label: run for label, run in zip(labels(runs), runs, strict=True) if run.attacks}
    if attacked:
        curves = {label: {attack: run.curve(attack) for attack in run.attacks} for label, run in attacked.items()}
        norms = sorted({run.final.norm for run in attacked.values() if run.final})
        save(epsilon_curves(curves, x_label=f"ε ({', '.join(norms)}, pixels in [0, 1])"), output / "curves")
    for label, run in attacked.items():
        panel = attack_panel(*run.examples())
        if panel is not None:
            save(panel, output / f"examples_{re.sub(r'[^A-Za-z0-9=._-]+', '_', label)}")


def labels(runs: Sequence[Run]) -> list[str]:
    """A label for each run, told apart by as little as is needed: its name, its seed, its directory."""
    forms = (
        lambda run: run.name,
        lambda run: f"{run.name} seed={run.summary['seed']}",
        lambda run: f"{run.name} seed={run.summary['seed']} {run.directory}",
    )
    for form in forms:
        made = [form(run) for run in runs]
        if len(set(made)) == len(made):
            break
    return made


def save(figure: Figure, stem: Path) -> None:
    """As PNG to look at and SVG to print."""
    for suffix in ("png", "svg"):
        figure.savefig(f"{stem}.{suffix}", dpi=160)


if __name__ == "__main__":
    sys.exit(guarded(main))
