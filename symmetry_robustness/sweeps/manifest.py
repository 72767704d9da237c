"""The jobs of a sweep: one file for each, named by what the job computes, so that none is ever there twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import CONFIG, config_hash, create_run, is_done, refresh_run
from symmetry_robustness.runs.json_files import read_mapping, write_json

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
        """What the job computes, see `config_hash`."""
        return config_hash(self.config)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.sweep / f"{self.config.name}_seed-{self.config.seed}_{self.key}"

    def freeze(self) -> None:
        """Make it part of the sweep, unless it is already; any number of processes may do so at the same time."""
        command, path = ["symrob", "train", *self.words], self.directory / CONFIG
        if path.exists():
            refresh_run(self.config, self.directory, command)
        else:
            try:
                create_run(self.config, self.directory, command)
            except UserError:
                if not path.exists():  # otherwise another process was faster
                    raise
        self._enter()

    def _enter(self) -> None:
        """Write the job's row of the manifest: it names the last command that was about the job before it was done."""
        row = self.sweep / JOBS / f"{self.key}.json"
        place = {"key": self.key, "directory": self.directory.name}
        content = place | {"overrides": [*self.overrides], "words": [*self.words]}
        known = read_mapping(row) or {}
        if not known.items() >= (place if is_done(self.directory) else content).items():
            write_json(row, content | {"planned": datetime.now(UTC).isoformat(timespec="seconds")}, durable=True)


def describe_sweep(sweep: Path, words: Sequence[str]) -> None:
    """Keep the words a sweep was started with, by which `continued_sweep` finds it."""
    if not (sweep / SWEEP).exists():
        write_json(sweep / SWEEP, {"words": [*words], "started": datetime.now(UTC).isoformat(timespec="microseconds")})


def continued_sweep(parent: Path, words: Sequence[str]) -> Path | None:
    """The newest sweep below `parent` that was started with the same words, if there is one."""
    found = [(read_mapping(path) or {}, path.parent) for path in parent.glob(f"*/{SWEEP}")]
    same = [
        (str(about.get("started")), sweep)
        for about, sweep in found
        if isinstance(about.get("words"), list) and _deciding(about["words"]) == _deciding(words)
    ]
    return max(same)[1] if same else None


def _deciding(words: Sequence[str]) -> list[str]:
    """Words without those that say how a sweep is started, and not what it is."""
    return [word for word in words if word != "--detach" and not word.startswith("resume=")]
