"""`symrob train`: compose the configuration, freeze it in a run directory, run the job there."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from symmetry_robustness.app.collect import collect
from symmetry_robustness.app.config import finalize_config
from symmetry_robustness.app.hydra_main import is_sweep, run_hydra
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import create_run, find_run, is_done, refresh_run
from symmetry_robustness.runs.exit_status import MISTAKE, RESUMABLE, run_guarded
from symmetry_robustness.runs.process import run_job
from symmetry_robustness.runs.settings import check_settings
from symmetry_robustness.runs.train import robustness_callback
from symmetry_robustness.sweeps.executor import runs_here
from symmetry_robustness.sweeps.plan import PlannedJob, find_sweep
from symmetry_robustness.training import wandb_logger

_DETACH = "--detach"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job, or a sweep of jobs wherever the launcher runs them.

    Args:
        argv: Hydra's overrides and flags, and `--detach`: return as soon as the jobs are submitted (launcher slurm).

    Returns:
        The exit status: 0; 2 for a user's mistake; 1 if a job of a sweep is not done; a single job's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = Command(words)
    flags = ["hydra.launcher.executor.detach=true" if word == _DETACH else word for word in words]
    try:
        status = run_hydra("train", command.run, flags, plan=command.plan)
    except ConfigCompositionException as error:
        if "executor.detach" in str(error):
            raise UserError(f"{_DETACH}: only jobs of a cluster go on alone; add hydra/launcher=slurm") from error
        raise
    finally:
        command.remove_what_is_empty()
    return status or command.conclude()


@dataclass
class Command:
    """One call of `symrob train`.

    Args:
        words: what the user typed.
    """

    words: list[str]
    planned: list[PlannedJob] = field(default_factory=list)
    made: Path | None = None  # the directory that Hydra has made, though the job may be refused or go on elsewhere
    detached: bool = False  # whether the jobs go on without this process
    searching: bool = False  # whether a job that failed is an answer like any other

    def run(self, config: DictConfig) -> int:
        """Run the job of a composed configuration here and now; returns its exit status."""
        if is_sweep():
            job = self.plan(config)
            job.write()
            directory = job.directory
        else:
            self.made = Path(HydraConfig.get().runtime.output_dir)
            if _DETACH in self.words or not runs_here(HydraConfig.get().launcher):
                raise UserError("a single job runs on this machine; add -m, a sweep may be of one job")
            directory = self._single(_checked(config))
        status = run_job(directory)
        status = 128 - status if status < 0 else status  # as shells say that a signal ended it
        if status not in (0, MISTAKE):  # the job's own line has told a user's mistake already
            goes_on = "was interrupted; the same command with resume=auto goes on with it"
            how = goes_on if status in RESUMABLE else f"ended with exit status {status}; see its log.txt"
            print(f"error: the job in {directory} {how}", file=sys.stderr)
        return status

    def plan(self, config: DictConfig) -> PlannedJob:
        """The job of a composed configuration as part of the sweep; nothing is written yet."""
        hydra = HydraConfig.get()
        self.made = Path(hydra.runtime.output_dir)
        named = config.group or hydra.runtime.choices["experiment"] != "none"
        self.detached = bool((hydra.launcher.get("executor") or {}).get("detach"))
        self.searching = str(hydra.sweeper._target_).endswith(".SearchSweeper")
        config = _checked(config)
        sweep = self.planned[0].sweep if self.planned else self._sweep(config)
        if not named:
            config.group = sweep.name
        overrides = tuple(word for word in hydra.overrides.task if word not in self.words)
        self.planned.append(PlannedJob(sweep, config, overrides, tuple(self.words)))
        return self.planned[-1]

    def remove_what_is_empty(self) -> None:
        """Remove the directory that Hydra has made if nothing of ours was written to it."""
        if self.made is None:
            return
        with contextlib.suppress(OSError):  # somebody has found a use for it, or it is gone
            if not self.made.samefile(".") and {path.name for path in self.made.iterdir()} <= {"multirun.yaml"}:
                (self.made / "multirun.yaml").unlink(missing_ok=True)
                self.made.rmdir()

    def conclude(self) -> int:
        """Say what became of a sweep; returns 1 if a job of it is not done."""
        if not self.planned or self.detached:
            return 0
        collect(self.planned[0].sweep)
        return 0 if self.searching or all(is_done(job.directory) for job in self.planned) else 1

    def _sweep(self, config: DictConfig) -> Path:
        sweep = Path(HydraConfig.get().runtime.output_dir)
        earlier = find_sweep(sweep.parent, self.words) if config.resume == "auto" else None
        return earlier or sweep

    def _single(self, config: DictConfig) -> Path:
        directory = Path(HydraConfig.get().runtime.output_dir)
        earlier = find_run(directory, config) if config.resume == "auto" else None
        command = ["symrob", "train", *self.words]
        if earlier is None:
            create_run(config, directory, command)
            return directory
        refresh_run(config, earlier, command)
        print(f"goes on in {earlier}", flush=True)
        return earlier


def _checked(config: DictConfig) -> DictConfig:
    """Complete, resolved, and free of what the job would refuse, so that no failed run is left for it."""
    config = finalize_config(config)
    check_settings(config, robustness_callback(config), here=runs_here(HydraConfig.get().launcher))
    if config.logger.wandb:
        wandb_logger.validate(**config.logger.wandb)
    return config


if __name__ == "__main__":
    sys.exit(run_guarded(main))
