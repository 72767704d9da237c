"""Hydra finds launchers and sweepers in this namespace only; what they do stands in symmetry_robustness.sweeps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

if TYPE_CHECKING:
    from symmetry_robustness.sweeps.executor import OnError


class GridSweeper(BasicSweeper):
    """Hydra's grid, whose jobs are composed once: planning refuses a wrong one before any of them starts."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: composing all jobs here as well would take as long again."""


class SweepLauncher(BasicLauncher):
    """Plans all jobs of a batch first, then runs those that are not done.

    The task function only plans here: it freezes a job's configuration in its run directory and returns where that is.
    Hydra's own launcher composes the configurations and calls it, one after another in this process.

    Args:
        executor: where the jobs run; the node of its configuration.
        on_error: "continue" or "stop", what a failed job means for those that have not started.

    Raises:
        UserError: settings that the executor does not take.
    """

    def __init__(self, executor: DictConfig, on_error: "OnError" = "continue") -> None:
        super().__init__()
        from hydra.utils import instantiate

        from symmetry_robustness.app.config import check_targets
        from symmetry_robustness.errors import UserError

        if not isinstance(executor, DictConfig) or "_target_" not in executor:
            raise UserError(
                f"hydra.launcher.executor={executor} is none; choose hydra/launcher=local, parallel or slurm"
            )
        check_targets(executor, "hydra.launcher.executor")
        self._executor, self._on_error = instantiate(executor, _convert_="all"), on_error

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Plan and run."""
        from symmetry_robustness.sweeps.sweep import run_planned

        returns = super().launch(job_overrides, initial_job_idx)
        run_planned(returns, self._executor, self._on_error)
        return returns
