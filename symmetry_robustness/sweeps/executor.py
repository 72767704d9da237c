"""Where the jobs of a sweep run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

OnError = Literal["continue", "stop"]


def stop_line(failed: Path, others: int) -> str:
    """What to print where a job that failed ends its sweep.

    Args:
        failed: its run directory.
        others: how many jobs do not run because of it.
    """
    return f"stopped by on_error=stop: {failed.name} did not end well; not run: {others}"


class Executor(ABC):
    """Runs run directories; what became of them is read from their files, never from a return value."""

    @abstractmethod
    def check(self, jobs: Mapping[Path, DictConfig], on_error: OnError) -> None:
        """Refuse what could not run, before anything of the sweep is written.

        Args:
            jobs: run directory, which need not exist yet -> configuration, none of them done.
            on_error: as in `run`.

        Raises:
            UserError: settings that do not fit the jobs or this machine.
        """

    @abstractmethod
    def run(self, jobs: Sequence[Path], environment: Mapping[str, str], on_error: OnError) -> None:
        """Run jobs and return when all have ended, or at once where they go on without this process.

        Args:
            jobs: run directories with a frozen configuration, checked before, none of them done.
            environment: what to add to the environment of every job.
            on_error: whether a job that failed ends the sweep, that is, no further job is started.
        """
