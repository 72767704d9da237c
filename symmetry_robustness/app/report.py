"""`symrob report RUN… --output DIR`: tables and figures from run or sweep directories."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from symmetry_robustness.app.cli import guarded
from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting import tables
from symmetry_robustness.reporting.figures import attack_panel, epsilon_curves, view_curves
from symmetry_robustness.reporting.runs import VIEWS, Run, find_runs


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table; write it as Markdown and CSV, the curves and the adversarial examples as PNG and SVG.

    Returns:
        0; 2 is the wrapper's for a user's mistake.
    """
    parser = argparse.ArgumentParser(prog="symrob report", description="tables and figures from run directories")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run or sweep directory")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where tables and figures go")
    arguments = parser.parse_args(argv)
    runs, problems = find_runs(arguments.runs)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not runs:
        raise UserError(f"none of the {len(problems)} runs found is finished; nothing to report")
    write_report(runs, arguments.output)
    return 0


def write_report(runs: list[Run], output: Path) -> None:
    """Print the table and write everything into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    rows = tables.result_rows(runs)
    Console(width=None if sys.stdout.isatty() else 160).print(tables.terminal(rows, "accuracy ± standard error"))
    (output / "table.md").write_text(tables.markdown(rows))
    (output / "table.csv").write_text(tables.comma_separated(rows))
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
        norms = sorted({run.report["norm"] for run in attacked.values() if run.report})
        save(epsilon_curves(curves, x_label=f"ε ({', '.join(norms)}, pixels in [0, 1])"), output / "curves")
    for label, run in attacked.items():
        panel = attack_panel(*run.examples())
        if panel is not None:
            save(panel, output / f"examples_{re.sub(r'[^A-Za-z0-9=._-]+', '_', label)}")
    print(f"tables and figures: {output}")


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
