"""The contract of executors, which run the jobs of a sweep."""

import pydoc
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from omegaconf import DictConfig

OnError = Literal["continue", "stop"]


class Executor(ABC):
    """Runs the jobs of run directories; their outcome is read from their files, never returned.

    Attributes:
        here: whether jobs run on this machine, so that their devices can be checked before they start.
    """

    here: ClassVar[bool] = False

    def check(self, jobs: Mapping[Path, DictConfig], on_error: OnError) -> None:
        """Refuse jobs that could not run, before anything of the sweep is written; nothing by default.

        Args:
            jobs: run directory, which need not exist yet -> configuration, none of them done.
            on_error: as in `run`.

        Raises:
            UserError: settings that do not fit the jobs or this machine.
        """
        del jobs, on_error

    @abstractmethod
    def run(self, jobs: Sequence[Path], environment: Mapping[str, str], on_error: OnError) -> None:
        """Run jobs and return when all have ended, or at once if they do not need this process.

        Args:
            jobs: run directories with a frozen configuration, checked before, none of them done.
            environment: variables added to the environment of every job.
            on_error: whether a failed job ends the sweep, so that no further job is started.
        """


def runs_here(launcher: Mapping[str, Any] | None) -> bool:
    """Whether jobs of a launcher's configuration run on this machine."""
    executor = (launcher or {}).get("executor")
    return not executor or bool(getattr(pydoc.locate(str(executor.get("_target_"))), "here", False))


def stop_line(failed: Path, others: int) -> str:
    """The line to print when a failed job ends its sweep, and `others` jobs do not run because of it."""
    return f"stopped by on_error=stop: {failed.name} did not end well; not run: {others}"
