"""Jobs on a Slurm cluster, submitted as arrays through submitit."""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final, final

import submitit
from omegaconf import DictConfig
from submitit.core.utils import FailedJobError, FailedSubmissionError

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import locked
from symmetry_robustness.runs.directory import SUBMISSION, read_config
from symmetry_robustness.runs.json_files import read_mapping, text, write_json
from symmetry_robustness.sweeps.executor import Executor, OnError
from symmetry_robustness.sweeps.resources import Resources, requested_resources
from symmetry_robustness.sweeps.slurm_queue import SlurmJob, ask_squeue, wait_for_jobs

FILES: Final = "slurm"
_UNRECORDED: Final = ".unrecorded"
_SETTING: Final = "hydra.launcher.executor"
# Slurm's warning may come a minute early, and a job that is still importing cannot act on it.
_MARGIN_S: Final = 90
_CANCEL_S: Final = 60.0


@final
@dataclass(frozen=True)
class SlurmExecutor(Executor):
    """Each job is an element of a Slurm array; srun starts its ranks, one for each device of its Trainer.

    Args:
        gpus_per_node: needed only where a job's Trainer takes all the GPUs there are; nodes and ranks follow from it.
        cpus_per_task: cores of each rank; also its threads, unless OMP_NUM_THREADS is set.
        timeout_min: time limit; a job that needs more saves its state and is requeued.
        partition: None for the cluster's default, as in the next three.
        account: to be charged.
        qos: quality of service.
        mem_gb: memory per node.
        signal_delay_s: seconds before the time limit at which a job is asked to save its state.
        array_parallelism: number of jobs at once; None for as many as fit.
        setup: lines of bash before the ranks start, such as `module load cuda`.
        additional_parameters: any other option of sbatch, without its dashes.
        detach: whether to return once the jobs are submitted.
        poll_s: seconds between two calls of squeue.

    Raises:
        UserError: a number out of its range, or no time left to save the state.
    """

    gpus_per_node: int | None = None
    cpus_per_task: int = 4
    timeout_min: int = 240
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    mem_gb: float | None = None
    signal_delay_s: int = 120
    array_parallelism: int | None = None
    setup: Sequence[str] = ()
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)
    detach: bool = False
    poll_s: float = 10.0

    def __post_init__(self) -> None:
        numbers = ("gpus_per_node", "cpus_per_task", "timeout_min", "mem_gb", "signal_delay_s", "array_parallelism")
        for name in (*numbers, "poll_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{_SETTING}.{name} must be positive, got {value!r}")
        least = -(-(self.signal_delay_s + _MARGIN_S) // 60)
        if self.timeout_min < least:
            raise UserError(
                f"{_SETTING}.timeout_min={self.timeout_min} leaves no time to train before the signal at "
                f"signal_delay_s={self.signal_delay_s}; set timeout_min={least} or more, or a shorter signal_delay_s"
            )

    def check(self, jobs: Mapping[Path, DictConfig], on_error: OnError) -> None:
        """Refuse settings that do not fit a job or each other, and a machine without a Slurm that answers."""
        if self.detach and on_error == "stop":
            raise UserError(
                "hydra.launcher.on_error=stop has to wait for the jobs, which --detach does not; leave out one of them"
            )
        if shutil.which("sbatch") is None:
            remedy = "start from a login node of the cluster, or choose hydra/launcher=local"
            raise UserError(f"hydra/launcher=slurm, but there is no sbatch on this machine; {remedy}")
        for job, config in jobs.items():
            requested_resources(config.trainer, job.name, self.gpus_per_node)
        _squeue(None)

    def run(self, jobs: Sequence[Path], environment: Mapping[str, str], on_error: OnError) -> None:
        """Submit jobs that Slurm does not have already, and return when all have ended, or at once if detached.

        Raises:
            UserError: sbatch refused the jobs, or Slurm does not answer.
            KeyboardInterrupt: in the waiting process; the jobs continue.
        """
        resources = {job: requested_resources(read_config(job).trainer, job.name, self.gpus_per_node) for job in jobs}
        files = jobs[0].parent / FILES
        files.mkdir(exist_ok=True)
        with locked(files / ".lock", wait=lambda: print("another process is submitting; waiting for it", flush=True)):
            _cancel_unrecorded(files)
            submitted = _in_queue(jobs)
            if submitted:
                print(f"in the queue already and not submitted again: {len(submitted)}", flush=True)
            missing = [job for job in jobs if job not in submitted]
            for requested, part in split_into_arrays(missing, resources, _max_array_size()):
                submitted |= self._submit(part, requested, environment)
        numbers = " ".join(sorted({number.split("_")[0] for number in submitted.values()}))
        print(f"with Slurm as {numbers}: {len(submitted)} jobs", flush=True)
        how = f"follow them: {shlex.join(['symrob', 'status', str(jobs[0].parent)])}\ncancel them: scancel {numbers}"
        if self.detach:
            print(how, flush=True)
            return
        try:
            wait_for_jobs(submitted, self.poll_s, on_error)
        except KeyboardInterrupt:
            print(f"the jobs go on without this process\n{how}", flush=True)
            raise

    def _submit(self, jobs: Sequence[Path], requested: Resources, environment: Mapping[str, str]) -> dict[Path, str]:
        """Submit one array and record each job's number in its run directory; returns the numbers.

        A mark that Slurm stores with the jobs lies beside them until their numbers are recorded: they may be submitted
        although this process is killed, or sbatch stops waiting for an answer.
        """
        sweep, mark = jobs[0].parent.resolve(), secrets.token_hex(8)
        unrecorded = sweep / FILES / f"{mark}{_UNRECORDED}"
        unrecorded.touch()
        executor = submitit.SlurmExecutor(sweep / FILES)
        try:
            executor.update_parameters(**self._parameters(sweep.name, mark, requested, environment, len(jobs)))
            elements = executor.map_array(exec_job, [str(job.resolve()) for job in jobs])
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(
                f"sbatch refused the jobs ({sbatch_message(str(error))}); check partition, account, limits and "
                "additional_parameters"
            ) from error
        numbers = {job: str(element.job_id) for job, element in zip(jobs, elements, strict=True)}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for job, number in numbers.items():
            write_json(job / SUBMISSION, {"job_id": number, "submitted": now})
        unrecorded.unlink()
        return numbers

    def _parameters(
        self, name: str, mark: str, requested: Resources, environment: Mapping[str, str], count: int
    ) -> dict[str, Any]:
        """The settings of submitit's batch script; it leaves out those that are None."""
        exports = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
        return {
            "job_name": name,
            "nodes": requested.nodes,
            "ntasks_per_node": requested.tasks_per_node,
            "gpus_per_node": requested.gpus_per_node or None,
            "cpus_per_task": self.cpus_per_task,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "time": self.timeout_min,
            "array_parallelism": self.array_parallelism or count,
            "setup": [*exports, f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{self.cpus_per_task}}}", *self.setup],
            # Lightning and this project's jobs take SIGUSR1; submitit would have USR2 sent.
            "additional_parameters": {
                "signal": f"USR1@{self.signal_delay_s}",
                "requeue": True,
                **self.additional_parameters,
                "comment": f"{self.additional_parameters.get('comment', '')} {mark}".strip(),
            },
            # srun does not inherit the cores from Slurm 22.05 on; peers of a lost rank would wait for it.
            "srun_args": [f"--cpus-per-task={self.cpus_per_task}", "--kill-on-bad-exit=1"],
            "stderr_to_stdout": True,
        }


def exec_job(directory: str) -> None:
    """Replace this process, a task on a node, by a rank of the job.

    Nothing of submitit remains: signals reach the job itself, its exit status is the task's, and no result is written,
    which a job that was requeued could not replace. A warning that comes before the job can act on it stays pending.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))  # lasts beyond the next line
    os.execv(sys.executable, [sys.executable, "-u", "-m", "symmetry_robustness.runs.main", directory])


def _cancel_unrecorded(files: Path) -> None:
    """Cancel jobs of a process that was killed while it submitted them; they are submitted anew.

    They could not run: a job of submitit looks for its task in a file named by its number.

    Raises:
        UserError: Slurm does not answer, or does not end them.
    """
    marks = {path.name.removesuffix(_UNRECORDED): path for path in files.glob(f"*{_UNRECORDED}")}
    end, cancelled = time.monotonic() + _CANCEL_S, set[str]()
    while marks and (left := [number for number, job in _squeue(None).items() if job.comment.split(" ")[-1] in marks]):
        if time.monotonic() > end:
            raise UserError(f"Slurm does not end jobs of a submission that was cut off; scancel {' '.join(left)}")
        subprocess.run(["scancel", *left], capture_output=True, check=False)
        cancelled.update(left)
        time.sleep(1)
    if cancelled:
        print(f"of a submission that was cut off, cancelled: {len(cancelled)}", flush=True)
    for path in marks.values():
        path.unlink()


def _in_queue(jobs: Sequence[Path]) -> dict[Path, str]:
    """Jobs that were submitted before and are still in the queue, with their numbers."""
    records = {job: read_mapping(job / SUBMISSION) or {} for job in jobs}
    numbers = {job: number for job, record in records.items() if (number := text(record, "job_id"))}
    queue = _squeue(numbers.values()) if numbers else {}
    return {job: number for job, number in numbers.items() if number in queue}


def _squeue(identifiers: Collection[str] | None) -> dict[str, SlurmJob]:
    """The queue before a submission; without an answer jobs could be run twice."""
    queue = ask_squeue(identifiers)
    if queue is None:
        raise UserError("Slurm does not answer (squeue); try again later")
    return queue


def split_into_arrays(
    jobs: Iterable[Path], resources: Mapping[Path, Resources], largest: int
) -> Iterator[tuple[Resources, list[Path]]]:
    """Group jobs by their resources into arrays of at most `largest` jobs."""
    for requested, group in groupby(sorted(jobs, key=resources.__getitem__), key=resources.__getitem__):
        part = list(group)
        for start in range(0, len(part), largest):
            yield requested, part[start : start + largest]


def sbatch_message(output: str) -> str:
    """The lines of an error of sbatch in one, without their common prefix and the advice to read the manual."""
    lines = [line.strip().removeprefix("sbatch: ").removeprefix("error: ") for line in output.splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith("Try ")) or "without a message"


def _max_array_size() -> int:
    command = ["scontrol", "show", "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.split("=")[1] for line in done.stdout.splitlines() if line.startswith("MaxArraySize")]
    if not found:
        raise UserError(f"Slurm does not answer ({' '.join(done.stderr.split())}); try again later")
    return max(1, int(found[0]))
