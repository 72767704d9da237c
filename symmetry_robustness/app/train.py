"""`symrob train`: composes the configuration, creates the run directory, runs the job there.

Torch and Lightning are imported after Hydra has composed the configuration, so that a misspelled name is refused fast.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from symmetry_robustness.app.config import check_classes, resolve_config
from symmetry_robustness.app.hydra_main import DETACH, is_sweep, run_hydra
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import (
    check_free,
    create_run,
    find_run,
    is_done,
    refresh_run,
    remove_untrained,
    remove_unused,
)
from symmetry_robustness.runs.exit_status import RESUMABLE, run_guarded, user_message
from symmetry_robustness.runs.settings import check_monitor, check_objects, check_settings
from symmetry_robustness.runs.signals import interrupt_ends_process
from symmetry_robustness.sweeps.executor import runs_here
from symmetry_robustness.sweeps.local import LocalExecutor
from symmetry_robustness.sweeps.plan import PlannedJob, find_sweep, run_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job, or a sweep of jobs wherever the launcher runs them.

    Args:
        argv: Hydra's overrides and flags, and `--detach`: return as soon as the jobs are submitted (launcher slurm).

    Returns:
        The exit status: 0; 2 for a user's mistake; 1 if a job of a sweep is not done; a single job's own.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = Command(argv)
    flags = ["hydra.launcher.executor.detach=true" if word == DETACH else word for word in argv]
    try:
        status = run_hydra("train", command.run, flags, plan=command.plan)
    except ConfigCompositionException as error:
        if "executor.detach" in str(error):
            raise UserError(f"{DETACH}: only jobs of a cluster run detached; add hydra/launcher=slurm") from error
        raise
    finally:
        command.remove_empty_directory()
    return status or command.finish()


@dataclass
class Command:
    """One call of `symrob train`."""

    argv: list[str]
    planned: list[PlannedJob] = field(default_factory=list)
    made: Path | None = None  # the directory that Hydra has made, though the job may be refused or resumed elsewhere
    sweep: Path = Path()
    detached: bool = False  # whether the jobs run without this process
    searching: bool = False  # whether a failed job is a result like any other

    def run(self, config: DictConfig) -> int:
        """Run the job of a composed configuration here and now; returns its exit status."""
        if is_sweep():  # under a launcher of Hydra or a plugin, which knows no plans
            run_sweep([self.plan(config)], LocalExecutor(), "continue")
            return 0
        self.made = Path(HydraConfig.get().runtime.output_dir)
        if DETACH in self.argv or not runs_here(HydraConfig.get().launcher):
            raise UserError("a single job runs on this machine; add -m, a sweep may be of one job")
        if config.resume != "auto":
            check_free(self.made)
        config = _checked(config)
        earlier = find_run(self.made, config) if config.resume == "auto" else None
        (refresh_run if earlier else create_run)(config, earlier or self.made, ["symrob", "train", *self.argv])
        if earlier:
            print(f"resumes {earlier}", flush=True)
        from symmetry_robustness.runs.main import main as run_job

        try:
            status = run_job([str(earlier or self.made)])
        except (Exception, SystemExit) as error:
            if user_message(error) and not earlier:
                remove_untrained(self.made)
            raise
        if status in RESUMABLE:
            remedy = "was interrupted; the same command with resume=auto resumes it"
            print(f"error: the job in {earlier or self.made} {remedy}", file=sys.stderr)
        return status

    def plan(self, config: DictConfig) -> PlannedJob:
        """The job of a composed configuration as part of the sweep, not written yet."""
        hydra = HydraConfig.get()
        self.made = Path(hydra.runtime.output_dir)
        named = config.group or hydra.runtime.choices["experiment"] != "none"
        self.detached = bool((hydra.launcher.get("executor") or {}).get("detach"))
        self.searching = str(hydra.sweeper._target_).endswith(".SearchSweeper")
        config = _checked(config)
        if not self.planned:
            earlier = find_sweep(self.made.parent, self.argv) if config.resume == "auto" else None
            self.sweep = earlier or self.made
        if not named:
            config.group = self.sweep.name
        overrides = tuple(word for word in hydra.overrides.task if word not in self.argv)
        self.planned.append(PlannedJob(self.sweep, config, overrides, tuple(self.argv)))
        return self.planned[-1]

    def remove_empty_directory(self) -> None:
        """Remove the directory that Hydra has made if this command wrote nothing to it."""
        if self.made is None:
            return
        remove_unused(self.made)

    def finish(self) -> int:
        """Print the results of a sweep; returns 1 if a job of it is not done."""
        from symmetry_robustness.app.collect import collect

        if not self.planned or self.detached:
            return 0
        collect(self.sweep)
        return 0 if self.searching or all(is_done(job.directory) for job in self.planned) else 1


def _checked(config: DictConfig) -> DictConfig:
    """The configuration completed, resolved and checked; no run directory is created for a job that is refused."""
    here = runs_here(HydraConfig.get().launcher)
    config = resolve_config(config)
    check_settings(config, here=here)
    with interrupt_ends_process():
        from symmetry_robustness.runs.train import robustness_callback
        from symmetry_robustness.training import wandb_logger
    check_classes(config)
    check_objects(config)
    check_monitor(config, robustness_callback(config))
    if config.logger.wandb:
        wandb_logger.validate(**config.logger.wandb)
    return config


if __name__ == "__main__":
    sys.exit(run_guarded(main))
