"""The states of a sweep's jobs, read from their files alone."""

import glob
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import CONFIG, LOCK, PROGRESS, SUBMISSION, SUMMARY, damaged_file
from symmetry_robustness.runs.json_files import number, read_mapping, text
from symmetry_robustness.runs.liveness import has_ended_here, is_fresh, is_locked
from symmetry_robustness.runs.terminal import last_line, printable
from symmetry_robustness.sweeps.plan import JOBS
from symmetry_robustness.sweeps.slurm_queue import SlurmJob, ask_squeue

State = Literal["running", "failed", "lost", "interrupted", "queued", "done"]


@dataclass(frozen=True)
class JobState:
    """One job as its files show it at one moment; None where they do not tell.

    Attributes:
        key: hash of the configuration; empty for a run outside of a manifest.
        directory: the run directory.
        overrides: those that set the job apart from others of its sweep.
        state: running, failed, lost (started, now without a sign of life), interrupted (saved its state), queued, done.
        phase: starting, training, evaluating or testing.
        epoch, max_epochs: finished ones and all.
        step, steps: optimiser steps done and all.
        images_per_second: of the training.
        metric: name and value of the last one.
        host: the machine.
        started, updated: start of the process and its last sign of life, in seconds since 1970.
        remaining: seconds of training left, evaluations during it included.
        slurm_id: number of its Slurm job.
        reason: why Slurm lets it wait.
        error: one line that tells why it did not end well; of a lost job the last line of its log.
        log: the file with the traceback or the last output of a job that did not end well.
        results: content of summary.json of a job that is done.
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
        """The overrides, or the name of the directory if there are none."""
        return printable(" ".join(self.overrides)) or self.directory.resolve().name

    @property
    def fraction_done(self) -> float:
        """The part of the job that is done, in [0, 1]."""
        done, total = (self.step, self.steps) if self.step is not None and self.steps else (self.epoch, self.max_epochs)
        return 1.0 if self.state == "done" else max(0.0, min(1.0, done / total)) if done and total else 0.0

    @property
    def elapsed(self) -> float | None:
        """Seconds from the start of the process to its last sign of life."""
        return None if self.started is None or self.updated is None else max(0.0, self.updated - self.started)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON knows them: paths as strings, null for numbers that are not finite."""
        metric = self.metric and {"name": self.metric[0], "value": self.metric[1]}
        text = json.dumps(asdict(self) | {"metric": metric}, default=str)
        return dict(json.loads(text, parse_constant=lambda constant: None))


def job_state(directory: Path, key: str = "", overrides: tuple[str, ...] = ()) -> JobState:
    """The state of the job in a run directory, which need not exist, whatever its files contain; nothing is changed."""
    summary, progress = read_mapping(directory / SUMMARY), read_mapping(directory / PROGRESS)
    state = JobState(key, directory, overrides, "queued", **_progress(progress or {}))
    if summary is not None and summary.get("status") == "done":
        damaged = damaged_file(directory, summary)
        if damaged is None:
            return replace(state, state="done", remaining=None, results=summary)
        summary = {"error": f"{damaged.relative_to(directory)} is gone or damaged"}
    lives = summary is None and is_fresh(directory / PROGRESS, state.updated) and not has_ended_here(progress or {})
    if lives or is_locked(directory / LOCK):
        return replace(state, state="running")
    slurm_id = state.slurm_id or text(read_mapping(directory / SUBMISSION) or {}, "job_id")
    state = replace(state, remaining=None, slurm_id=slurm_id)
    log = _newest_log(directory, slurm_id)
    if summary is not None:
        error = text(summary, "error") or (None if summary else f"{SUMMARY} is damaged or cannot be read")
        ended: State = "interrupted" if summary.get("status") == "interrupted" else "failed"
        return replace(state, state=ended, error=error, log=log)
    if progress is not None:
        if (directory / SUMMARY).exists():  # the job has ended since, and released its lock
            return job_state(directory, key, overrides)
        return replace(state, state="lost", error=None if log is None else last_line(log), log=log)
    return state if directory.is_dir() else replace(state, state="lost", error="its run directory is gone")


def sweep_states(
    sweep: Path, squeue: Callable[[Collection[str]], Mapping[str, SlurmJob] | None] = ask_squeue
) -> list[JobState]:
    """The states of all jobs of a sweep in the order of their overrides, and of runs beside them.

    Args:
        sweep: directory of a sweep, or of a single run.
        squeue: called once for all submitted jobs without a sign of life.

    Raises:
        UserError: no such directory, or no job in it.
    """
    if not sweep.is_dir():
        raise UserError(f"{sweep} is not a directory; give the directory of a sweep or of a run")
    states = sorted(_states(sweep), key=lambda state: _natural_order(state.label))
    if not states:
        raise UserError(f"{sweep} holds no job; give the directory of a sweep (with jobs/ in it) or of a run")
    silent = {state.slurm_id for state in states if state.slurm_id and state.state not in ("running", "done")}
    queue = squeue(silent) if silent else None
    return states if queue is None else [_with_queue(state, queue) for state in states]


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


def _with_queue(state: JobState, queue: Mapping[str, SlurmJob]) -> JobState:
    """A submitted job without a sign of life may wait, be about to start, or be gone."""
    if state.slurm_id is None or state.state in ("running", "done"):
        return state
    job = queue.get(state.slurm_id)
    if job is not None:
        return replace(state, state="queued" if job.waiting else "running", reason=job.reason, error=None, log=None)
    if state.state == "queued" and not is_fresh(state.directory / SUBMISSION):  # a busy Slurm lists a job late
        error = f"Slurm no longer knows job {state.slurm_id}: it was cancelled or never started"
        return replace(state, state="lost", error=error, log=_newest_log(state.directory, state.slurm_id))
    return state


def _progress(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a state that stand in progress.json, None for damaged ones."""
    whole = {name: number(content, name) for name in ("epoch", "max_epochs", "step", "steps")}
    metric = content.get("metric")
    name, value = (text(metric, "name"), metric.get("value")) if isinstance(metric, dict) else (None, None)
    return {
        **{name: None if value is None else int(value) for name, value in whole.items()},
        **{name: number(content, name) for name in ("images_per_second", "started", "updated")},
        **{name: text(content, name) for name in ("phase", "host")},
        "metric": (name, float(value)) if name and isinstance(value, int | float) else None,
        "slurm_id": text(content, "slurm_job_id"),
        "remaining": _remaining(content),
    }


def _remaining(content: Mapping[str, Any]) -> float | None:
    """Seconds left at the pace of this process, which does not count what an earlier one of a resumed job did."""
    started, updated, first = (number(content, name) for name in ("started", "updated", "first_step"))
    for so_far, in_all, before in (("step", "steps", first or 0.0), ("epoch", "max_epochs", 0.0)):
        done, total = number(content, so_far), number(content, in_all)
        if done is not None and total is not None and total > 0:
            if started is None or updated is None or done <= before:
                return None
            return max(0.0, (total - done) * (updated - started) / (done - before))
    return None


def _newest_log(directory: Path, slurm_id: str | None) -> Path | None:
    """The file written last of those that a job writes its output to."""
    files = [directory / "log.txt", directory / "output.txt"]
    if slurm_id is not None:
        files += (directory.parent / "slurm").glob(f"{glob.escape(slurm_id)}_0_log.*")
    return max((path for path in files if path.is_file()), key=lambda path: path.stat().st_mtime, default=None)


def _natural_order(label: str) -> list[tuple[int, str]]:
    """A key that sorts numbers by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", label)]
