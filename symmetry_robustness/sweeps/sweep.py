"""A sweep from planned jobs to jobs that have ended; running it again runs what is missing."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import is_done
from symmetry_robustness.runs.snapshot import snapshot
from symmetry_robustness.sweeps.executor import Executor, OnError
from symmetry_robustness.sweeps.manifest import PlannedJob, describe_sweep


def run_planned(returns: Sequence[JobReturn], executor: Executor, on_error: OnError) -> None:
    """Make the jobs part of their sweep and run those that are not done yet.

    Args:
        returns: of planning: for each job the planned job, or why it was refused.
        executor: where they run.
        on_error: what a failed job means for those that have not started.

    Raises:
        UserError: a job was refused, or the executor refuses them; nothing was written and none has started.
    """
    if on_error not in ("continue", "stop"):
        raise UserError(f"hydra.launcher.on_error must be continue or stop, got {on_error!r}")
    if not returns:
        raise UserError("the sweep has no jobs; a range or list of values is empty")
    _refuse(returns)
    planned: list[PlannedJob] = [job.return_value for job in returns]
    sweep = planned[0].sweep
    jobs = {job.directory: job for job in planned}  # two spellings of one job are one job
    missing = {directory: job.config for directory, job in jobs.items() if not is_done(directory)}
    if missing:
        executor.check(missing, on_error)
    describe_sweep(sweep, planned[0].words)
    for job in jobs.values():
        job.freeze()
    done = f", {len(jobs) - len(missing)} done before" if len(missing) < len(jobs) else ""
    print(f"sweep {sweep}: {len(jobs)} jobs{done}", flush=True)
    if missing:
        executor.run([*missing], snapshot(sweep), on_error)


def _refuse(returns: Sequence[JobReturn]) -> None:
    """Raise the error of the first job that was refused, a user's mistake with what sets the job apart."""
    common = set.intersection(*(set(job.overrides or ()) for job in returns))
    for job in returns:
        if job.status is JobStatus.FAILED:
            error = job._return_value  # the public property prints before it raises
            if not isinstance(error, UserError):
                raise error
            own = " ".join(word for word in job.overrides or () if word not in common)
            raise UserError(f"{error} ({f'job {own}; ' if own else ''}none has started)") from error
