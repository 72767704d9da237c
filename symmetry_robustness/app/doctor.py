"""`symrob doctor`: what this machine offers the commands, and what to fix."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from symmetry_robustness.app import doctor_checks
from symmetry_robustness.app.arguments import Parser, path
from symmetry_robustness.app.doctor_checks import WANDB_S, Finding
from symmetry_robustness.runs.exit_status import run_guarded

_STYLE: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def main(argv: Sequence[str] | None = None) -> int:
    """Examine everything and print a line for each finding.

    Returns:
        0; 1 if there is a problem.
    """
    parser = Parser(prog="symrob doctor", description="Show what this machine offers and what to fix.")
    root = os.environ.get("SYMROB_DATA", "data")
    parser.add_argument("--root", type=path, default=Path(root), help=f"directory of the data sets (default: {root})")
    parser.add_argument("--output", type=path, default=Path("outputs"), help="directory of runs (default: outputs)")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    online = in_background(doctor_checks.wandb)
    topics: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": doctor_checks.versions,
        "devices": doctor_checks.devices,
        "Slurm": doctor_checks.slurm,
        "data": lambda: doctor_checks.data(arguments.root.expanduser()),
        "output": lambda: doctor_checks.output(arguments.output.expanduser()),
        "kernel cache": doctor_checks.kernel_cache,
        "training": doctor_checks.batch_and_attack,
        "W&B": online,
    }
    findings = [finding for topic, check in topics.items() for finding in examine(topic, check)]
    console = Console()
    for finding in findings:
        console.print(f"{finding.status:<8}", style=_STYLE[finding.status], end=" ")
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        console.print(f"{finding.topic}: {finding.found}{remedy}", markup=False, highlight=False, soft_wrap=True)
    return 1 if any(finding.status == "problem" for finding in findings) else 0


def examine(topic: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check; an exception in it is a finding, too."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except Exception as error:  # one broken part must not hide the others
        reason = " ".join(str(error).split()) or "no reason given"
        findings.append(Finding(topic, "problem", f"the check failed: {type(error).__name__}: {reason}"))
    return findings


def in_background(check: Callable[[], Iterator[Finding]]) -> Callable[[], Iterator[Finding]]:
    """Start the check of W&B, which a name server may never answer; returns a check that does not wait for it long."""
    findings: list[Finding] = []
    thread = threading.Thread(target=lambda: findings.extend(examine("W&B", check)), daemon=True)
    thread.start()

    def result() -> Iterator[Finding]:
        thread.join(WANDB_S + 2)
        if thread.is_alive():
            yield Finding("W&B", "warning", "runs would be offline, the network does not answer", "WANDB_MODE=offline")
        yield from list(findings)

    return result


if __name__ == "__main__":
    sys.exit(run_guarded(main))
