"""The queue of Slurm."""

import getpass
import subprocess
from collections.abc import Collection
from typing import Final, NamedTuple

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
