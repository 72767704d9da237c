"""The queue of Slurm: what is in it, and waiting until jobs have left it; their files tell how they ended."""

import getpass
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from symmetry_robustness.runs.directory import SUBMISSION, SUMMARY, is_done
from symmetry_robustness.runs.json_files import read_mapping, text
from symmetry_robustness.sweeps.executor import OnError, stop_line

_GRACE_S: Final = 10.0  # for files to cross a network after the job has left the queue
_WAITING: Final = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


class SlurmJob(NamedTuple):
    """A job in the queue."""

    waiting: bool
    reason: str
    comment: str = ""


def ask_squeue(identifiers: Collection[str] | None, timeout: float = 10.0) -> dict[str, SlurmJob] | None:
    """Query jobs in one call.

    Args:
        identifiers: of jobs, an element of an array as `123_4`; None for all of this user.
        timeout: seconds.

    Returns:
        The jobs that wait or run, by identifier; None if squeue is missing or does not answer.
    """
    if identifiers is None:
        which = f"--user={getpass.getuser()}"
    else:
        which = f"--jobs={','.join(sorted({identifier.split('_')[0] for identifier in identifiers}))}"
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r|%k", which]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # squeue's message if it knows none of them
        return None
    rows = [line.strip().split("|", 3) for line in done.stdout.splitlines()]
    return {row[0]: SlurmJob(row[1] in _WAITING, *row[2:]) for row in rows if len(row) == 4}


def wait_for_jobs(jobs: Mapping[Path, str], poll_s: float, on_error: OnError) -> None:
    """Wait until all jobs have ended, and print one line for each; a Slurm that does not answer is waited for.

    Args:
        jobs: run directory -> number in Slurm.
        poll_s: seconds between two calls of squeue.
        on_error: "stop" cancels pending jobs as soon as one has failed.
    """
    active, missed = dict(jobs), dict[Path, float]()  # and when jobs were first missed in the queue
    answering, cancelled = True, set[Path]()
    while active:
        time.sleep(poll_s)
        queue = ask_squeue(active.values())
        if (queue is not None) != answering:
            answering = not answering
            print("Slurm answers again" if answering else "Slurm does not answer; waiting for it", flush=True)
        for job, number in [*active.items()]:
            summary = _summary(job)
            if not is_done(job):
                if queue is None or number in queue:
                    missed.pop(job, None)
                    continue
                if summary is None and time.monotonic() - missed.setdefault(job, time.monotonic()) < _GRACE_S:
                    continue
            del active[job]
            outcome = text(summary or {}, "status") or ("cancelled" if job in cancelled else "ended without a summary")
            print(f"{outcome}: {job.name}" + ("" if outcome == "done" else f" (Slurm job {number})"), flush=True)
            if on_error == "stop" and outcome not in ("done", "interrupted", "cancelled") and not cancelled:
                pending = {number for number, known in (queue or {}).items() if known.waiting}
                cancelled = {other for other, number in active.items() if number in pending}
                if cancelled:
                    subprocess.run(["scancel", "--state=PENDING", *active.values()], check=False)
                    print(stop_line(job, len(cancelled)), flush=True)


def _summary(job: Path) -> dict[str, Any] | None:
    """The summary, unless it was written before the job was submitted."""
    try:
        if (job / SUMMARY).stat().st_mtime_ns < (job / SUBMISSION).stat().st_mtime_ns:
            return None
    except FileNotFoundError:
        return None
    return read_mapping(job / SUMMARY)
