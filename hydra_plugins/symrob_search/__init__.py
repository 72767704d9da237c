"""Hydra finds sweepers in this namespace only; what this one does stands in symmetry_robustness.sweeps.search."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Lets Optuna choose the jobs of a sweep, see `symmetry_robustness.sweeps.search.Search` for the settings.

    Raises:
        UserError: Optuna is not installed, or a sampler that it does not have or settings that it does not take.
    """

    def __init__(self, **settings: Any) -> None:
        from symmetry_robustness.app.config import check_targets
        from symmetry_robustness.errors import UserError

        try:
            from symmetry_robustness.sweeps.search import Search
        except ImportError as error:
            raise UserError(
                f"a search needs Optuna's sweeper ({error}); pip install 'symmetry-robustness[search]'"
            ) from error
        sampler = settings.get("sampler")
        if not isinstance(sampler, DictConfig) or "_target_" not in sampler:
            raise UserError(f"hydra.sweeper.sampler={sampler} is none; optuna.samplers has some for its _target_")
        check_targets(sampler, "hydra.sweeper.sampler")
        self._search = Search(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over before the sweep."""
        self._search.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Search."""
        self._search.sweep(arguments)
