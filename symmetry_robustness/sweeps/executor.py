"""Where the jobs of a sweep run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

OnError = Literal["continue", "stop"]


class Executor(ABC):
    """Runs run directories; what became of them is read from their files, never from a return value."""

    @abstractmethod
    def run(self, jobs: Sequence[Path], environment: Mapping[str, str], on_error: OnError) -> None:
        """Run jobs and return when all have ended, or at once where they go on without this process.

        Args:
            jobs: run directories with a frozen configuration, none of them done.
            environment: what to add to the environment of every job.
            on_error: whether a job that failed ends the sweep, that is, no further job is started.

        Raises:
            UserError: settings that do not fit the jobs, before any of them starts.
        """
