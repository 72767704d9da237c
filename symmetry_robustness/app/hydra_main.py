"""A Hydra application whose mistakes are one line each, and whose failed jobs do not stop the next."""

import sys
from collections.abc import Callable, Sequence

import hydra
from omegaconf import DictConfig

from symmetry_robustness.app.cli import guarded
from symmetry_robustness.app.config import config_directory
from symmetry_robustness.app.schema import register_schemas


def run_hydra(app: str, job: Callable[[DictConfig], int], words: Sequence[str]) -> int:
    """Compose the configuration, or each one of a sweep, and run `job` on it.

    Args:
        app: name of the root configuration, "train" or "evaluate".
        job: from composed configuration to exit status.
        words: Hydra's overrides and flags.

    Returns:
        The exit status: 0, or that of the first job that failed.
    """
    register_schemas()
    sys.argv = [f"symrob-{app}", *words]
    statuses: list[int] = []

    # An exception would pass through Hydra, which adds lines of its own and ends the sweep.
    @hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=app)
    def task(config: DictConfig) -> None:
        statuses.append(guarded(lambda: job(config)))
        if statuses[-1] >= 128:  # ended by a signal: the user wants the sweep to end
            sys.exit(statuses[-1])

    task()
    return next((status for status in statuses if status), 0)
