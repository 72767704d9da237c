"""What the jobs of a sweep are doing, told by their files alone."""

import contextlib
import glob
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import CONFIG, LOCK, PROGRESS, SUBMISSION, SUMMARY
from symmetry_robustness.runs.json_files import number, read_mapping, text
from symmetry_robustness.runs.liveness import has_ended_here, is_fresh, is_locked
from symmetry_robustness.runs.squeue import SlurmJob, ask_squeue
from symmetry_robustness.runs.terminal import last_line, printable
from symmetry_robustness.sweeps.manifest import JOBS

State = Literal["running", "failed", "lost", "interrupted", "queued", "done"]


@dataclass(frozen=True)
class JobState:
    """One job as its files show it at one moment.

    Attributes:
        key: of the manifest; empty for a run outside of one.
        directory: the run directory.
        overrides: what sets the job apart from the others of its sweep.
        state: running, failed, lost (started, without a sign of life now), interrupted (saved itself), queued or done.
        phase: starting, training, evaluating or testing; this and what follows is what the job last wrote.
        epoch: how many are finished.
        max_epochs: how many there will be.
        step: optimiser steps done.
        steps: how many there will be.
        images_per_second: of the training.
        metric: name and value of the last one.
        host: the machine.
        started: when its process did, in seconds since 1970.
        updated: its last sign of life, likewise.
        remaining: seconds of training still to come, evaluations during it included.
        slurm_id: of its Slurm job.
        reason: why Slurm lets it wait.
        error: the line that says what went wrong; of a job that is lost the last one of its log.
        log: the file with the traceback or the last words of a job that did not end well.
        results: the content of summary.json of a job that is done.
    """

    key: str
    directory: Path
    overrides: tuple[str, ...]
    state: State
    phase: str | None = None
    epoch: int | None = None
    max_epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    images_per_second: float | None = None
    metric: tuple[str, float] | None = None
    host: str | None = None
    started: float | None = None
    updated: float | None = None
    remaining: float | None = None
    slurm_id: str | None = None
    reason: str | None = None
    error: str | None = None
    log: Path | None = None
    results: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """What to call the job: its overrides, else its directory."""
        return printable(" ".join(self.overrides)) or self.directory.resolve().name

    @property
    def share(self) -> float:
        """How much of the job is done, in [0, 1]."""
        return 1.0 if self.state == "done" else _share(self.step, self.steps, self.epoch, self.max_epochs)

    def as_json(self) -> dict[str, Any]:
        """The same in what JSON knows: paths as texts, null for numbers that are not finite."""
        content = asdict(self) | {"directory": str(self.directory), "log": self.log and str(self.log)}
        content["metric"] = self.metric and {"name": self.metric[0], "value": self.metric[1]}
        return {name: _plain(value) for name, value in content.items()}


def job_state(directory: Path, key: str = "", overrides: tuple[str, ...] = ()) -> JobState:
    """What the job of a run directory is doing; nothing in the directory is changed, whatever may stand there.

    Args:
        directory: the run directory; it need not exist.
        key: of the manifest.
        overrides: likewise.
    """
    summary, progress = read_mapping(directory / SUMMARY), read_mapping(directory / PROGRESS)
    state = JobState(key, directory, overrides, "queued", **_progress(progress or {}))
    if summary is not None and summary.get("status") == "done":
        return replace(state, state="done", remaining=None, results=summary)
    lives = summary is None and is_fresh(directory / PROGRESS, state.updated) and not has_ended_here(progress or {})
    if lives or is_locked(directory / LOCK):
        return replace(state, state="running")
    slurm_id = state.slurm_id or text(read_mapping(directory / SUBMISSION) or {}, "job_id")
    state = replace(state, remaining=None, slurm_id=slurm_id)
    if summary is not None:
        error = text(summary, "error") or (None if summary else f"{SUMMARY} is damaged or cannot be read")
        ended: State = "interrupted" if summary.get("status") == "interrupted" else "failed"
        return replace(state, state=ended, error=error, log=_log(directory, slurm_id))
    if progress is not None:
        if (directory / SUMMARY).exists():  # it has ended since, and given back its lock
            return job_state(directory, key, overrides)
        log = _log(directory, slurm_id)
        return replace(state, state="lost", error=None if log is None else last_line(log), log=log)
    return state if directory.is_dir() else replace(state, state="lost", error="its run directory is gone")


def sweep_states(
    sweep: Path, squeue: Callable[[Collection[str]], Mapping[str, SlurmJob] | None] = ask_squeue
) -> list[JobState]:
    """All jobs of a sweep in the order of their overrides, and runs in its directory that its manifest does not know.

    Args:
        sweep: the sweep's directory, or a single run's.
        squeue: asked once about all jobs that were handed to Slurm and show no sign of life.

    Raises:
        UserError: there is no such directory, or no job in it.
    """
    if not sweep.is_dir():
        raise UserError(f"{sweep} is not a directory; give the directory of a sweep or of a run")
    states = sorted(_states(sweep), key=lambda state: _in_order(state.label))
    if not states:
        raise UserError(f"{sweep} holds no job; give the directory of a sweep (with jobs/ in it) or of a run")
    silent = {state.slurm_id for state in states if state.slurm_id and state.state not in ("running", "done")}
    known = squeue(silent) if silent else None
    return states if known is None else [_as_slurm_says(state, known) for state in states]


def _states(sweep: Path) -> Iterator[JobState]:
    """The state of each job by its files."""
    if (sweep / CONFIG).is_file():
        yield job_state(sweep)
        return
    planned = set()
    for path in (sweep / JOBS).glob("[!.]*.json"):
        row = read_mapping(path)
        if row is None:
            continue
        name, overrides = row.get("directory"), row.get("overrides")
        if not isinstance(name, str) or name in ("", "..") or "/" in name:
            yield JobState(path.stem, path, (), "lost", error="its row of the manifest is damaged", log=path)
            continue
        planned.add(name)
        yield job_state(sweep / name, path.stem, tuple(map(str, overrides)) if isinstance(overrides, list) else ())
    for path in sweep.glob(f"[!.]*/{CONFIG}"):
        if path.parent.name not in planned:
            yield job_state(path.parent)


def _as_slurm_says(state: JobState, known: Mapping[str, SlurmJob]) -> JobState:
    """A job that was handed to Slurm and shows no sign of life may wait, be about to start, or be gone."""
    if state.slurm_id is None or state.state in ("running", "done"):
        return state
    job = known.get(state.slurm_id)
    if job is not None:
        return replace(state, state="queued" if job.waiting else "running", reason=job.reason, error=None, log=None)
    if state.state == "queued" and not is_fresh(state.directory / SUBMISSION):  # a busy Slurm lists a job late
        error = f"Slurm does not know job {state.slurm_id} any more; it was cancelled or did not come to start"
        return replace(state, state="lost", error=error, log=_log(state.directory, state.slurm_id))
    return state


def _progress(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job's state that stand in its progress.json, None where what stands there makes no sense."""
    numbers = {name: number(content, name) for name in ("epoch", "max_epochs", "step", "steps")}
    metric = content.get("metric")
    name, value = (text(metric, "name"), metric.get("value")) if isinstance(metric, dict) else (None, None)
    return {
        **{name: None if value is None else int(value) for name, value in numbers.items()},
        "phase": text(content, "phase"),
        "images_per_second": number(content, "images_per_second"),
        "metric": (name, float(value)) if name and isinstance(value, int | float) else None,
        "host": text(content, "host"),
        "started": number(content, "started"),
        "updated": number(content, "updated"),
        "slurm_id": text(content, "slurm_job_id"),
        "remaining": _remaining(content),
    }


def _remaining(content: Mapping[str, Any]) -> float | None:
    """Seconds left at the pace of this process, of which what an earlier one of a resumed job did is no part."""
    started, updated = number(content, "started"), number(content, "updated")
    for so_far, in_all, first in (("step", "steps", number(content, "first_step")), ("epoch", "max_epochs", None)):
        done, total = number(content, so_far), number(content, in_all)
        if done is not None and total is not None and total > 0:
            gained = done - (first or 0.0)
            if started is None or updated is None or gained <= 0:
                return None
            return max(0.0, (total - done) * (updated - started) / gained)
    return None


def _share(step: int | None, steps: int | None, epoch: int | None, max_epochs: int | None) -> float:
    done, total = (step, steps) if step is not None and steps else (epoch, max_epochs)
    return max(0.0, min(1.0, done / total)) if done and total else 0.0


def _log(directory: Path, slurm_id: str | None) -> Path | None:
    """The file that was written last of those in which a job may have left its last words."""
    files = [directory / "log.txt", directory / "output.txt"]
    if slurm_id is not None:
        files += (directory.parent / "slurm").glob(f"{glob.escape(slurm_id)}_0_log.*")
    written = []
    for path in files:
        with contextlib.suppress(OSError):
            written.append((path.stat().st_mtime, path))
    return max(written)[1] if written else None


def _in_order(label: str) -> list[tuple[int, str]]:
    """For sorting: numbers by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", label)]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
