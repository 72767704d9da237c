"""Waiting for jobs of a cluster: their files say what became of them, squeue only that they are still to come."""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from symmetry_robustness.runs.directory import SUBMISSION, SUMMARY, is_done
from symmetry_robustness.runs.json_files import read_mapping, text
from symmetry_robustness.runs.squeue import SlurmJob, ask_squeue
from symmetry_robustness.sweeps.executor import OnError, stop_line

_GRACE_S: Final = 10.0  # for files to cross a network after the job has left the queue


def follow(jobs: Mapping[Path, str], poll_s: float, on_error: OnError) -> None:
    """Wait until all jobs have ended, and print one line for each; a Slurm that does not answer is waited for.

    Args:
        jobs: run directory -> number in Slurm.
        poll_s: seconds between two questions.
        on_error: "stop" cancels jobs that wait as soon as one has failed.
    """
    going, gone = dict(jobs), dict[Path, float]()
    answering, cancelled = True, set[Path]()
    while going:
        time.sleep(poll_s)
        queue = ask_squeue(going.values())
        if (queue is not None) != answering:
            answering = not answering
            print("Slurm answers again" if answering else "Slurm does not answer; waiting for it", flush=True)
        ended = [job for job, number in going.items() if _has_ended(job, number, queue, gone)]
        for job in ended:
            number = going.pop(job)
            outcome = _outcome(job) or ("cancelled" if job in cancelled else "ended without a summary")
            print(f"{outcome}: {job.name}" + ("" if outcome == "done" else f" (Slurm job {number})"), flush=True)
            if on_error == "stop" and outcome not in ("done", "interrupted", "cancelled") and not cancelled:
                cancelled = {other for other, number in going.items() if _waits(number, queue)}
                if cancelled:
                    subprocess.run(["scancel", "--state=PENDING", *going.values()], check=False)
                    print(stop_line(job, len(cancelled)), flush=True)


def _waits(number: str, queue: Mapping[str, SlurmJob] | None) -> bool:
    return queue is not None and number in queue and queue[number].waiting


def _has_ended(job: Path, number: str, queue: Mapping[str, SlurmJob] | None, gone: dict[Path, float]) -> bool:
    """Whether a job is done, or has left the queue and its summary is there or will not come any more.

    Args:
        job: run directory.
        number: in Slurm.
        queue: what Slurm still has, None if it does not answer.
        gone: when jobs were missed in the queue first; kept up to date here.
    """
    if is_done(job):
        return True
    if queue is None or number in queue:
        gone.pop(job, None)
        return False
    missed = time.monotonic() - gone.setdefault(job, time.monotonic())
    return _summary(job) is not None or missed >= _GRACE_S


def _outcome(job: Path) -> str | None:
    """The status in the summary; None where there is none."""
    return text(_summary(job) or {}, "status")


def _summary(job: Path) -> dict[str, Any] | None:
    """The summary, unless it is that of an earlier start."""
    try:
        if (job / SUMMARY).stat().st_mtime_ns < (job / SUBMISSION).stat().st_mtime_ns:
            return None
    except FileNotFoundError:
        return None
    return read_mapping(job / SUMMARY)
