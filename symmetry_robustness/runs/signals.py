"""Signals that end a job, and Slurm's part in them."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final

log = logging.getLogger(__name__)

# Slurm's warning before the time limit; SIGTERM is preemption, `scontrol requeue`, `kill`; SIGINT is Ctrl-C; SIGHUP is
# a terminal that was closed.
WARNINGS: Final = (signal.SIGUSR1, signal.SIGUSR2)
_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNINGS)
# Signals that a job process is started with blocked, until it can handle them.
BLOCKED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(eq=False)
class Interrupted(BaseException):
    """Raised when a signal stops the job, after its state has been checkpointed."""

    number: signal.Signals


class Signals:
    """Handles the signals that would end this process.

    While batches are trained a signal is only recorded, and `PreemptionCheckpoint` acts on it. At any other time there
    is nothing to save, and the handler raises `Interrupted`. A second SIGINT ends the process at once.

    Args:
        leader: whether this process is global rank 0; other ranks only record, and end with it or by agreement.

    Attributes:
        received: the first signal that came.
        waiting: whether batches are being trained, or the process is ending already.
    """

    def __init__(self, *, leader: bool) -> None:
        self.received: signal.Signals | None = None
        self.waiting = False
        self._leader = leader

    def install(self) -> None:
        """Install the handlers, also in place of Lightning's for SIGTERM, which communicates between ranks."""
        for number in _HANDLED:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def end_if_received(self) -> None:
        """End if a signal came, and from now on as soon as one comes.

        Raises:
            Interrupted: a signal came.
        """
        self.waiting = False
        if self.received is not None and self._leader:
            raise Interrupted(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == self.received == signal.SIGINT:
            os._exit(128 + number)
        self.received = self.received or signal.Signals(number)
        if not self.waiting:
            self.end_if_received()


@contextlib.contextmanager
def interrupt_ends_process() -> Iterator[None]:
    """Let Ctrl-C end the process at once while it imports and has written nothing.

    As an exception it would be lost if it reached Python within a lock of its imports.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")  # Python's buffers may be in the middle of a line
    os._exit(128 + number)


def slurm_job() -> str | None:
    """The job, or the task of an array, as Slurm's commands name it; None outside of Slurm."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def requeue(job: str) -> bool:
    """Ask Slurm to run a job again; returns whether it agreed."""
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = " ".join(str(getattr(error, "stderr", error)).split())
        log.error("Slurm job %s: not requeued (%s)", job, reason)
        return False
    log.info("Slurm job %s: requeued", job)
    return True
