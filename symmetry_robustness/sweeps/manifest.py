"""The jobs of a sweep: one file for each, named by what the job computes, so that none is ever there twice."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from symmetry_robustness.sweeps.run_directory import CONFIG, freeze, job_key, read_json, write_json

JOBS = "jobs"
SWEEP = "sweep.json"


@dataclass(frozen=True)
class PlannedJob:
    """A job that is to be part of a sweep.

    Args:
        sweep: the sweep's directory.
        config: of the job, resolved and checked.
        overrides: what the job adds to the sweep's configuration, for people to read.
        words: the words the user typed after `symrob train`.
    """

    sweep: Path
    config: DictConfig
    overrides: tuple[str, ...]
    words: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """What the job computes, see `job_key`."""
        return job_key(self.config)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.sweep / f"{self.config.name}_seed-{self.config.seed}_{self.key}"

    def freeze(self) -> None:
        """Make it part of the sweep, unless it is already; any number of processes may do so at the same time."""
        if not (self.directory / CONFIG).exists():
            _freeze_at_once(self.config, self.directory, ["symrob", "train", *self.words])
        row = self.sweep / JOBS / f"{self.key}.json"
        if row.exists():
            return
        row.parent.mkdir(exist_ok=True)
        planned = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"key": self.key, "directory": self.directory.name, "overrides": [*self.overrides]}
        write_json(row, content | {"planned": planned})


def _freeze_at_once(config: DictConfig, directory: Path, command: list[str]) -> None:
    """Freeze beside the directory and move it there, so that of several processes one wins and none sees half."""
    unfinished = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process with the same number
    freeze(config, unfinished, command)
    try:
        unfinished.rename(directory)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not (directory / CONFIG).exists():
            raise


def describe_sweep(sweep: Path, words: Sequence[str]) -> None:
    """Keep the words a sweep was started with, by which `continued_sweep` finds it."""
    if not (sweep / SWEEP).exists():
        write_json(sweep / SWEEP, {"words": [*words], "started": datetime.now(UTC).isoformat(timespec="microseconds")})


def continued_sweep(parent: Path, words: Sequence[str]) -> Path | None:
    """The newest sweep below `parent` that was started with the same words, if there is one."""
    found = [(read_json(path), path.parent) for path in parent.glob(f"*/{SWEEP}")]
    same = [(about["started"], sweep) for about, sweep in found if about["words"] == [*words]]
    return max(same)[1] if same else None
