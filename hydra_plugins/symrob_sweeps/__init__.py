"""The launcher and the sweepers, where Hydra finds them; `symmetry_robustness.sweeps` does the work."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from symmetry_robustness.errors import UserError


class GridSweeper(BasicSweeper):
    """Hydra's grid without its check that all jobs compose, which the launcher's planning does."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing."""


class SearchSweeper(Sweeper):
    """Lets Optuna choose the jobs of a sweep; `symmetry_robustness.sweeps.search.Search` lists settings and errors."""

    def __init__(self, sampler: DictConfig | None = None, **settings: Any) -> None:
        try:
            from symmetry_robustness.sweeps.search import Search
        except ImportError as error:
            raise UserError(f"a search needs Optuna ({error}); pip install 'symmetry-robustness[search]'") from error
        built = _build(sampler, "hydra.sweeper.sampler", "a class of optuna.samplers")
        self._search = Search(sampler=built, **settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher, which must wait for its jobs."""
        if (config.hydra.launcher.get("executor") or {}).get("detach"):
            raise UserError("a search has to wait for its jobs; leave out --detach")
        self._loader, self._directory = hydra_context.config_loader, Path(config.hydra.sweep.dir)
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search."""
        launch = partial(self._launcher.launch, initial_job_idx=0)  # no name depends on the index
        self._search.run(self._directory, arguments, self._loader, launch)


class SweepLauncher(BasicLauncher):
    """Plans all jobs of a batch, then runs those that are not done.

    Hydra's own launcher composes the configurations and calls the task function, which only returns a planned job.

    Args:
        executor: node of the executor that runs the jobs.
        on_error: "continue" or "stop": whether a failed job ends the sweep.
    """

    def __init__(self, executor: DictConfig, on_error: Any = "continue") -> None:
        super().__init__()
        self._executor = _build(executor, "hydra.launcher.executor", "hydra/launcher=local, parallel or slurm")
        self._on_error = on_error

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Plan and run."""
        from symmetry_robustness.runs.directory import remove_unused
        from symmetry_robustness.sweeps.plan import planned_jobs, run_sweep

        returns: Sequence[JobReturn] = ()
        try:
            returns = super().launch(job_overrides, initial_job_idx)
        finally:
            if not returns and self.config is not None:
                remove_unused(Path(self.config.hydra.sweep.dir))
        run_sweep(planned_jobs(returns), self._executor, self._on_error)
        return returns


def _build(node: DictConfig | None, setting: str, choices: str) -> Any:
    """The object that a node describes, once its settings are checked."""
    from hydra.utils import instantiate

    from symmetry_robustness.app.config import check_targets

    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"{setting}={node} has no _target_; choose {choices}")
    check_targets(node, setting)
    return instantiate(node, _convert_="all")
