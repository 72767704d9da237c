"""`symrob train`: compose the configuration, freeze it in a run directory, run the job there."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from symmetry_robustness.app.cli import guarded
from symmetry_robustness.app.config import finalize_config
from symmetry_robustness.app.hydra_main import run_hydra
from symmetry_robustness.app.job import checkpoints, robustness_callback
from symmetry_robustness.sweeps.process import run_job
from symmetry_robustness.sweeps.run_directory import freeze


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job, or a sweep of jobs one after another.

    Args:
        argv: Hydra's overrides and flags.

    Returns:
        The exit status: 0, or that of the first job that failed.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def job(config: DictConfig) -> int:
        directory = Path(HydraConfig.get().runtime.output_dir)
        config = finalize_config(config)
        checkpoints(config, directory, robustness_callback(config))  # what they refuse need not leave a failed run
        freeze(config, directory, ["symrob", "train", *words])
        status = run_job(directory)
        if status not in (0, 2):  # the job's own line has told a user's mistake already
            how = "was interrupted" if status == 130 else f"ended with exit status {status}"
            print(f"error: the job in {directory} {how}; see its log.txt", file=sys.stderr)
        return status

    return run_hydra("train", job, words)


if __name__ == "__main__":
    sys.exit(guarded(main))
