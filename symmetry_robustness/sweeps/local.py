"""Jobs on this machine, one after another or several at once in slots of its cores and GPUs."""

import os
import queue
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeVar, final

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.exit_status import RESUMABLE
from symmetry_robustness.runs.process import JobProcess, RunningJobs
from symmetry_robustness.sweeps.executor import Executor, OnError, stop_line

OUTPUT: Final = "output.txt"
_CORES_PER_JOB: Final = 4
Device = TypeVar("Device")


@dataclass(frozen=True)
class DeviceSlot:
    """The cores and GPUs of one job; an empty slot is the whole machine."""

    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """One thread per core, unless the user has set OMP_NUM_THREADS; only this slot's GPUs are visible."""
        threads = self.cores and "OMP_NUM_THREADS" not in os.environ
        return ({"OMP_NUM_THREADS": str(len(self.cores))} if threads else {}) | (
            {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        )


@final
@dataclass(frozen=True)
class LocalExecutor(Executor):
    """Each job is a process of its own; jobs that run at once write to output.txt in their run directories.

    Args:
        n_jobs: number of jobs at once; -1 for one per GPU, or one per four cores if there is no GPU.

    Raises:
        UserError: a number that is neither positive nor -1.
    """

    here: ClassVar[bool] = True
    n_jobs: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.n_jobs, int) or (self.n_jobs < 1 and self.n_jobs != -1):
            raise UserError(f"hydra.launcher.executor.n_jobs must be a positive number or -1, got {self.n_jobs!r}")

    def run(self, jobs: Sequence[Path], environment: Mapping[str, str], on_error: OnError) -> None:
        """Run jobs and return when all have ended.

        Raises:
            KeyboardInterrupt, SystemExit: a signal came and was forwarded; the jobs have saved their state and ended.
        """
        slots = device_slots(self.n_jobs, len(jobs))
        free: queue.SimpleQueue[DeviceSlot] = queue.SimpleQueue()
        for slot in slots:
            free.put(slot)
        failed, skipped = list[Path](), list[Path]()

        def run_one(job: Path) -> None:
            if running.signal is not None:
                return
            if failed and on_error == "stop":
                skipped.append(job)
                return
            slot, output = free.get(), None if len(slots) == 1 else job / OUTPUT
            if output:
                print(f"started {job.name}, its output goes to {output}", flush=True)
            try:
                process = JobProcess(job, {**environment, **slot.environment()}, output)
                if slot.cores and hasattr(os, "sched_setaffinity"):
                    os.sched_setaffinity(process.pid, slot.cores)  # at once, long before torch counts its threads
                status = running.wait(process)
            except OSError as error:
                print(f"error: {job.name} could not be started ({error})", file=sys.stderr, flush=True)
                status = 1
            finally:
                free.put(slot)
            if status not in (0, *RESUMABLE):
                failed.append(job)
            if output:
                print(f"{f'ended with exit status {status}' if status else 'done'}: {job.name}", flush=True)

        with RunningJobs() as running:
            with ThreadPoolExecutor(len(slots)) as pool:
                list(pool.map(run_one, jobs))
            if skipped:
                print(stop_line(failed[0], len(skipped)), flush=True)


def device_slots(n_jobs: int, count: int) -> list[DeviceSlot]:
    """Divide this machine's cores and GPUs among the jobs that run at once.

    Args:
        n_jobs: number of jobs at once, -1 for what suits the machine.
        count: number of jobs altogether.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    gpus = _gpus()
    if n_jobs == -1:
        n_jobs = len(gpus) or max(1, len(cores) // _CORES_PER_JOB)
    n_jobs = min(n_jobs, count)
    if n_jobs == 1:
        return [DeviceSlot()]
    return [DeviceSlot(_part(cores, index, n_jobs), _part(gpus, index, n_jobs)) for index in range(n_jobs)]


def _part(devices: list[Device], index: int, parts: int) -> tuple[Device, ...]:
    """A contiguous part of the devices, which all parts together exhaust; of too few devices, one that is shared."""
    if len(devices) < parts:
        return (devices[index % len(devices)],) if devices else ()
    return tuple(devices[index * len(devices) // parts : (index + 1) * len(devices) // parts])


def _gpus() -> list[str]:
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return chosen.split(",")
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
