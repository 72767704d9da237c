"""The plan of a sweep: a run directory and a row of the manifest for each job, named by its configuration's hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import CONFIG, config_hash, create_run, is_done, refresh_run
from symmetry_robustness.runs.json_files import read_mapping, write_json
from symmetry_robustness.runs.provenance import snapshot
from symmetry_robustness.sweeps.executor import Executor, OnError

JOBS: Final = "jobs"
SWEEP: Final = "sweep.json"


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep that is not written yet.

    Args:
        sweep: the sweep's directory.
        config: of the job, resolved and checked.
        overrides: those that set the job apart from others of its sweep.
        argv: what the user typed after `symrob train`.
    """

    sweep: Path
    config: DictConfig
    overrides: tuple[str, ...]
    argv: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """The hash of the configuration."""
        return config_hash(self.config)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.sweep / f"{self.config.name}_seed-{self.config.seed}_{self.key}"

    def write(self) -> None:
        """Create or refresh the run directory and its row of the manifest; several processes may do so at once."""
        command, path = ["symrob", "train", *self.argv], self.directory / CONFIG
        if path.exists():
            refresh_run(self.config, self.directory, command)
        else:
            try:
                create_run(self.config, self.directory, command)
            except UserError:
                if not path.exists():  # otherwise another process was faster
                    raise
        row = self.sweep / JOBS / f"{self.key}.json"
        place = {"key": self.key, "directory": self.directory.name}
        content = place | {"overrides": [*self.overrides], "argv": [*self.argv]}
        known = read_mapping(row) or {}
        # The row names the last command about the job before it was done.
        if not known.items() >= (place if is_done(self.directory) else content).items():
            write_json(row, content | {"planned": datetime.now(UTC).isoformat(timespec="seconds")}, durable=True)


def run_sweep(planned: Sequence[PlannedJob], executor: Executor, on_error: OnError) -> None:
    """Write the planned jobs and run those that are not done.

    Raises:
        UserError: the executor refuses the jobs; nothing was written and none has started.
    """
    if on_error not in ("continue", "stop"):
        raise UserError(f"hydra.launcher.on_error must be continue or stop, got {on_error!r}")
    if not planned:
        raise UserError("the sweep has no jobs; a range or list of values is empty")
    sweep = planned[0].sweep
    jobs = {job.directory: job for job in planned}  # two spellings of one job are one job
    missing = {directory: job.config for directory, job in jobs.items() if not is_done(directory)}
    if missing:
        executor.check(missing, on_error)
    record_sweep(sweep, planned[0].argv)
    for job in jobs.values():
        job.write()
    done = f", {len(jobs) - len(missing)} done before" if len(missing) < len(jobs) else ""
    print(f"sweep {sweep}: {len(jobs)} jobs{done}", flush=True)
    if missing:
        executor.run([*missing], snapshot(sweep), on_error)


def planned_jobs(returns: Sequence[JobReturn]) -> list[PlannedJob]:
    """The jobs that Hydra's launcher had planned.

    Raises:
        UserError: the first job that was refused, with its overrides; another error is raised as it is.
    """
    common = set.intersection(*(set(job.overrides or ()) for job in returns)) if returns else set()
    for job in returns:
        if job.status is JobStatus.FAILED:
            error = job._return_value  # the public property prints before it raises
            if not isinstance(error, UserError):
                raise error
            own = " ".join(word for word in job.overrides or () if word not in common)
            raise UserError(f"{error} ({f'job {own}; ' if own else ''}none has started)") from error
    return [job.return_value for job in returns]


def record_sweep(sweep: Path, argv: Sequence[str]) -> None:
    """Record the argv a sweep was first started with, by which `find_sweep` finds it."""
    if not (sweep / SWEEP).exists():
        write_json(sweep / SWEEP, {"argv": [*argv], "started": datetime.now(UTC).isoformat(timespec="microseconds")})


def find_sweep(parent: Path, argv: Sequence[str]) -> Path | None:
    """The newest sweep below `parent` that was started with the same argv, but for flags of starting; None if none."""
    same = list[tuple[str, Path]]()
    for path in parent.glob(f"*/{SWEEP}"):
        record = read_mapping(path) or {}
        known = recorded_argv(record)
        if known is not None and _identifying(known) == _identifying(argv):
            same.append((str(record.get("started")), path.parent))
    return max(same)[1] if same else None


def recorded_argv(record: Mapping[str, Any]) -> list[str] | None:
    """The argv in a sweep's record or a row of its manifest; None if it is damaged."""
    argv = record.get("argv", record.get("words"))  # sweeps of version 0.1 have "words"
    return [str(word) for word in argv] if isinstance(argv, list) else None


def _identifying(argv: Sequence[str]) -> list[str]:
    return [word for word in argv if word != "--detach" and not word.startswith("resume=")]
