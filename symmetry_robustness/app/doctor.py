"""`symrob doctor`: what this machine has for the commands to work with, and what to mend."""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symmetry_robustness.app import doctor_checks as examinations
from symmetry_robustness.app.doctor_checks import WANDB_S, Finding
from symmetry_robustness.runs.exit_status import run_guarded

_STYLE: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def main(argv: Sequence[str] | None = None) -> int:
    """Look at everything and print what was found.

    Returns:
        0; 1 if there is a problem.
    """
    parser = argparse.ArgumentParser(prog="symrob doctor", description="Say what is there and what to mend.")
    root = os.environ.get("SYMROB_DATA", "data")
    parser.add_argument("--root", type=Path, default=Path(root), help=f"directory of the data sets (default: {root})")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="where runs will go (default: outputs)")
    arguments = parser.parse_args(argv)
    asked = InBackground(examinations.wandb)
    findings = [
        *examine("versions", examinations.versions),
        *examine("devices", examinations.devices),
        *examine("Slurm", examinations.slurm),
        *examine("data", lambda: examinations.data(arguments.root.expanduser())),
        *examine("output", lambda: examinations.output(arguments.output.expanduser())),
        *examine("kernel cache", examinations.kernel_cache),
        *examine("training", examinations.batch_and_attack),
        *examine("W&B", asked.result),
    ]
    show(findings, Console())
    return 1 if any(finding.status == "problem" for finding in findings) else 0


def examine(topic: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; that it breaks off is a finding, too."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except Exception as error:  # whatever is broken here must not hide what else is
        what = " ".join(str(error).split()) or "no reason given"
        findings.append(Finding(topic, "problem", f"the check broke off: {type(error).__name__}: {what}"))
    return findings


def show(findings: Sequence[Finding], console: Console) -> None:
    """As a table in a terminal, a line for each finding elsewhere."""
    if not console.is_terminal:
        for finding in findings:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            print(f"{finding.status:<8} {finding.topic}: {finding.found}{remedy}")
        return
    table = Table("", "what", "found", "what to do", show_lines=False)
    for finding in findings:
        status = f"[{_STYLE[finding.status]}]{finding.status}[/]"
        table.add_row(status, *(escape(text) for text in (finding.topic, finding.found, finding.remedy)))
    console.print(table)


class InBackground:
    """A check that may never end, as a silent name server has no time limit: begun early and not waited for long."""

    def __init__(self, check: Callable[[], Iterator[Finding]]) -> None:
        self._findings: list[Finding] = []
        self._thread = threading.Thread(target=lambda: self._findings.extend(examine("W&B", check)), daemon=True)
        self._thread.start()

    def result(self) -> Iterator[Finding]:
        """What it found."""
        self._thread.join(WANDB_S + 2)
        if self._thread.is_alive():
            yield Finding("W&B", "warning", "runs would be offline, the network does not answer", "WANDB_MODE=offline")
        yield from list(self._findings)


if __name__ == "__main__":
    sys.exit(run_guarded(main))
