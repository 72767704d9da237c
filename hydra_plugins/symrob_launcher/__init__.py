"""Hydra finds launchers in this namespace only; what this one does stands in symmetry_robustness.sweeps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn

if TYPE_CHECKING:
    from symmetry_robustness.sweeps.executor import Executor, OnError


class SweepLauncher(BasicLauncher):
    """Plans all jobs of a batch first, then runs those that are not done.

    The task function only plans here: it freezes a job's configuration in its run directory and returns where that is.
    Hydra's own launcher composes the configurations and calls it, one after another in this process.

    Args:
        executor: where the jobs run.
        on_error: "continue" or "stop", what a failed job means for those that have not started.
    """

    def __init__(self, executor: "Executor", on_error: "OnError" = "continue") -> None:
        super().__init__()
        self._executor, self._on_error = executor, on_error

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Plan and run."""
        from symmetry_robustness.sweeps.sweep import run_planned

        returns = super().launch(job_overrides, initial_job_idx)
        run_planned(returns, self._executor, self._on_error)
        return returns
