"""How a job ended: its exit status, and what its run directory says of it."""

import logging
import signal
import traceback
from pathlib import Path
from typing import Any

from symmetry_robustness.app.cli import find_mistake
from symmetry_robustness.runs.directory import SUMMARY, is_done, read_json, write_json
from symmetry_robustness.runs.preemption import REQUEUED, WARNINGS, Interrupted, Signals, slurm_job

log = logging.getLogger("symmetry_robustness.runs.exit_status")


def conclude(error: BaseException, signals: Signals, directory: Path | None, *, leader: bool) -> int:
    """The exit status; how the job ended is said in summary.json and log.txt of the run directory, if one is given.

    The first rank that fails says why; what the others raise, or the signal by which Slurm ends them, is a consequence.
    """
    failed_before = directory is not None and _has_failed(directory)
    number = error.number if isinstance(error, Interrupted) else signals.noted
    mistake = find_mistake(error) if isinstance(error, Exception) else None
    if number is None or mistake:
        last_line = traceback.format_exception_only(error)[-1].strip()
        told = f"error: {mistake}\n" if mistake else "".join(traceback.format_exception(error))
        if directory and not failed_before:
            keep(directory, {"status": "failed", "error": mistake or last_line}, told)
        return 2 if mistake else 1
    if failed_before:
        return 1
    if directory and leader:  # whatever was raised after a signal, such as the loss of another rank, is its consequence
        why = f"stopped by {number.name}"
        keep(directory, {"status": "interrupted", "error": why}, f"{why}\n")
    if number in WARNINGS and slurm_job():
        return REQUEUED
    return 130 if number is signal.SIGINT else 143


def _has_failed(directory: Path) -> bool:
    try:
        return bool(read_json(directory / SUMMARY)["status"] == "failed")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def keep(directory: Path, summary: dict[str, Any], told: str) -> None:
    """Write how the job ended, as far as that can be written; a run that is done stays so, whatever came after."""
    if is_done(directory):
        return
    try:
        write_json(directory / SUMMARY, summary)
        with (directory / "log.txt").open("a") as file:
            file.write(told)
    except OSError as error:
        log.error("%s cannot be written (%s)", directory / SUMMARY, error.strerror or error)
