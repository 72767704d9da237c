"""Jobs on this machine, one after another or several at a time with the cores and GPUs shared out."""

import os
import queue
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, final

import torch
from joblib import Parallel, delayed
from omegaconf import DictConfig

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.exit_status import RESUMABLE
from symmetry_robustness.runs.process import JobProcess, RunningJobs, forwarded_signals
from symmetry_robustness.sweeps.executor import Executor, OnError, stop_line

OUTPUT: Final = "output.txt"
_CORES_PER_JOB: Final = 4
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Share:
    """The part of the machine that one job gets; nothing given means all of it."""

    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """Threads as many as cores, unless the user has chosen; only the GPUs of this share are visible."""
        threads = (
            {"OMP_NUM_THREADS": str(len(self.cores))} if self.cores and "OMP_NUM_THREADS" not in os.environ else {}
        )
        return threads | ({"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {})


@final
@dataclass(frozen=True)
class LocalExecutor(Executor):
    """Each job is a process of its own; where several run at once, each writes to output.txt in its run directory.

    Args:
        n_jobs: how many run at once; -1 for one per GPU, or one per four cores where there is none.

    Raises:
        UserError: a number that is neither positive nor -1.
    """

    n_jobs: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.n_jobs, int) or (self.n_jobs < 1 and self.n_jobs != -1):
            raise UserError(f"hydra.launcher.executor.n_jobs must be a positive number or -1, got {self.n_jobs!r}")

    def check(self, jobs: Mapping[Path, DictConfig], on_error: OnError) -> None:
        """Nothing: what a job needs of this machine, it knows best itself."""

    def run(self, jobs: Sequence[Path], environment: Mapping[str, str], on_error: OnError) -> None:
        """Run jobs and return when all have ended.

        Raises:
            KeyboardInterrupt, SystemExit: a signal came and was passed on; the jobs have saved themselves and ended.
        """
        shares = device_shares(self.n_jobs, len(jobs))
        free: queue.SimpleQueue[Share] = queue.SimpleQueue()
        for share in shares:
            free.put(share)
        failed, left_out = list[Path](), list[Path]()

        def run_one(job: Path, running: RunningJobs) -> None:
            if running.signal is not None:
                return
            if failed and on_error == "stop":
                left_out.append(job)
                return
            share = free.get()
            try:
                if _run(job, environment, share, running, alone=len(shares) == 1) not in (0, *RESUMABLE):
                    failed.append(job)
            except OSError as error:
                print(f"error: {job.name} could not be started ({error})", file=sys.stderr, flush=True)
                failed.append(job)
            finally:
                free.put(share)

        with forwarded_signals() as running:
            Parallel(n_jobs=len(shares), backend="threading", batch_size=1)(
                delayed(run_one)(job, running) for job in jobs
            )
        if left_out:
            print(stop_line(failed[0], len(left_out)), flush=True)
        running.reraise()


def device_shares(n_jobs: int, count: int) -> list[Share]:
    """What each of the jobs that run at once gets of this machine.

    Args:
        n_jobs: how many at once, -1 for what suits the machine.
        count: how many there are altogether.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    gpus = _gpus()
    if n_jobs == -1:
        n_jobs = len(gpus) or max(1, len(cores) // _CORES_PER_JOB)
    n_jobs = min(n_jobs, count)
    if n_jobs == 1:
        return [Share()]
    return [Share(_part(cores, index, n_jobs), _part(gpus, index, n_jobs)) for index in range(n_jobs)]


def _part(things: list[Thing], index: int, parts: int) -> tuple[Thing, ...]:
    """A contiguous part, all of them together everything; where there are too few, one thing, shared with others."""
    if len(things) < parts:
        return (things[index % len(things)],) if things else ()
    return tuple(things[index * len(things) // parts : (index + 1) * len(things) // parts])


def _gpus() -> list[str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(index) for index in range(torch.cuda.device_count())]


def _run(job: Path, environment: Mapping[str, str], share: Share, running: RunningJobs, *, alone: bool) -> int:
    """Run one job in its share of the machine; returns its exit status."""
    output = None if alone else job / OUTPUT
    if output:
        print(f"started {job.name}, its output goes to {output}", flush=True)
    process = JobProcess(job, {**environment, **share.environment()}, output)
    if share.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, share.cores)  # at once, long before torch counts its threads
    status = running.wait(process)
    if output:
        print(f"{'done' if status == 0 else f'ended with exit status {status}'}: {job.name}", flush=True)
    return status
