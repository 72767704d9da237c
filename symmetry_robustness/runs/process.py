"""One process per job: nothing of one job's process group, device state or random state reaches the next."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from symmetry_robustness.files import lock
from symmetry_robustness.runs.directory import LOCK

log = logging.getLogger(__name__)

# Exit statuses of a job that saved itself on a signal and can be resumed; 75 where it has asked Slurm to see to that.
INTERRUPTED: Final = (75, 130, 143)
# Before a job can act on one of these it is kept for it.
KEPT: Final = (signal.SIGINT, signal.SIGTERM)
_FORWARDED = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}
_LIFELINE = "SYMROB_LIFELINE"


class JobProcess:
    """The job of a run directory, started. It ends, saved, when this process does, even by kill -9.

    Args:
        directory: with a frozen configuration.
        environment: what to add to this process's own.
        output: file that its standard output and error are appended to; this process's own by default.
    """

    def __init__(
        self, directory: Path, environment: Mapping[str, str] | None = None, output: Path | None = None
    ) -> None:
        lifeline, self._held = os.pipe()  # the end that is held closes with this process, and with nothing else
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, lifeline)
            file = stack.enter_context(output.open("ab")) if output else None
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, KEPT))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "symmetry_robustness.runs.train", str(directory)],
                env=os.environ | dict(environment or {}) | {_LIFELINE: str(lifeline)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT if file else None,
                pass_fds=(lifeline,),
                start_new_session=True,
            )
        self.pid = self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, as far as the job is still there."""
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
    """The jobs that signals are passed on to; safe to use from several threads.

    Attributes:
        signal: the first signal that came, None as long as there was none.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._jobs: list[JobProcess] = []
        self._lock = threading.RLock()  # the handler runs in the main thread, perhaps while that holds the lock

    def wait(self, job: JobProcess) -> int:
        """Wait for a job, passing on what comes meanwhile and what came before; returns its exit status."""
        with self._lock:
            self._jobs.append(job)
            if self.signal is not None:
                job.send(_FORWARDED[self.signal])
        try:
            return job.wait()
        finally:
            with self._lock:
                self._jobs.remove(job)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Send a signal to every job; a second one is sent as well, and ends a job at once."""
        with self._lock:
            self.signal = self.signal or signal.Signals(number)
            for job in self._jobs:
                job.send(_FORWARDED[signal.Signals(number)])

    def reraise(self) -> None:
        """After the jobs have ended: what the signal would have done to this process.

        Raises:
            KeyboardInterrupt, SystemExit: there was a signal.
        """
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def forwarded_signals() -> Iterator[RunningJobs]:
    """Pass signals that would end this process on to its jobs, which do not share the terminal's process group."""
    running = RunningJobs()
    before = {number: signal.signal(number, running.pass_on) for number in _FORWARDED}
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_job(directory: Path) -> int:
    """Run the frozen configuration in `directory` in a process of its own and wait for it; returns its exit status."""
    with forwarded_signals() as running:
        return running.wait(JobProcess(directory))


def end_with_parent(end: Callable[[], None]) -> None:
    """In a job: call `end` in a thread when the process that started it is gone; any other process has no such parent.

    Args:
        end: how this process ends.
    """
    lifeline = os.environ.pop(_LIFELINE, None)  # ranks that this process starts depend on it, not on its parent
    if lifeline is not None:
        threading.Thread(target=_await_end, args=(int(lifeline), end), daemon=True).start()


def _await_end(lifeline: int, end: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    end()


def claim(directory: Path) -> int | None:
    """Wait until no other process runs the job of a run directory, and keep others out until this process ends.

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
