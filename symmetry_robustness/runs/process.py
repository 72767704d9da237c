"""One process per job: nothing of one job's process group, device state or random state reaches the next."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Final, Self

from symmetry_robustness.files import lock
from symmetry_robustness.runs.directory import LOCK
from symmetry_robustness.runs.signals import BLOCKED_SIGNALS

log = logging.getLogger(__name__)

_FORWARDED = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
_LIFELINE = "SYMROB_LIFELINE"
# Names and numbers of glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_GIGABYTE: Final = 2**30


class JobProcess:
    """The started job of a run directory. It saves its state and ends when this process does, even by kill -9.

    Args:
        directory: with a frozen configuration.
        environment: variables added to this process's own.
        output: file that its standard output and error are appended to; this process's own by default.
    """

    def __init__(
        self, directory: Path, environment: Mapping[str, str] | None = None, output: Path | None = None
    ) -> None:
        lifeline, self._held = os.pipe()  # the end that is held closes with this process, and with nothing else
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        try:
            with output.open("ab") if output else contextlib.nullcontext() as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "symmetry_robustness.runs.main", str(directory)],
                    env=os.environ | dict(environment or {}) | {_LIFELINE: str(lifeline)},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT if file else None,
                    pass_fds=(lifeline,),
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(lifeline)
        self.pid = self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the job still runs."""
        self._process.send_signal(number)

    def status(self) -> int | None:
        """The exit status, negative after a signal that the job does not handle; None as long as it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for the end; returns 0, 2 for a user's mistake, 130 or 143 if interrupted, else 1 or a signal."""
        try:
            return self._process.wait()
        finally:
            os.close(self._held)


class RunningJobs:
    """A context that forwards signals which would end this process to its jobs, in whatever thread they are waited for.

    They do not share the terminal's process group. On leaving, when all jobs have ended, the signal ends this process.

    Attributes:
        signal: the first signal that came, else None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._jobs: list[JobProcess] = []
        self._lock = threading.RLock()  # the handler runs in the main thread, perhaps while that holds the lock

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._forward) for number in _FORWARDED}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + signal.SIGTERM)

    def wait(self, job: JobProcess) -> int:
        """Wait for a job, forwarding signals to it; returns its exit status."""
        with self._lock:
            self._jobs.append(job)
            if self.signal is not None:
                job.send(_FORWARDED[self.signal])
        try:
            return job.wait()
        finally:
            with self._lock:
                self._jobs.remove(job)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            self.signal = self.signal or signal.Signals(number)
            for job in self._jobs:
                job.send(_FORWARDED[signal.Signals(number)])  # a second one ends a job at once


def end_with_parent(end: Callable[[], None]) -> None:
    """Call `end` in a thread as soon as the process that started this job is gone; does nothing elsewhere."""
    lifeline = os.environ.pop(_LIFELINE, None)  # ranks that this process starts depend on it, not on its parent
    if lifeline is None:
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(int(lifeline), 1)
        end()

    threading.Thread(target=wait, daemon=True).start()


def acquire_run_lock(directory: Path) -> int | None:
    """Wait until no other process runs the job of a run directory, and lock it until this process ends.

    Returns:
        The file descriptor that holds the lock; None where the file system has no locks, or the lock cannot be made.
    """
    try:
        return lock(
            directory / LOCK,
            wait=lambda: log.warning("another process runs the job in %s; waiting until it ends", directory),
        )
    except OSError as error:
        log.warning("%s cannot be locked (%s); see to it that no other process runs this job", directory, error)
        return None


def keep_freed_memory() -> None:
    """Let glibc keep up to a gigabyte of freed memory for the next tensors; other C libraries stay as they are.

    By default glibc returns large blocks at once, and the kernel clears their pages at the next use; networks on a
    CPU spend up to a third of their time on that. Source: mallopt(3).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _GIGABYTE)
        set_option(_TRIM_THRESHOLD, _GIGABYTE)
