"""`python -m symmetry_robustness.runs.main RUN_DIRECTORY`: the process that trains one network."""

import logging
import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Final

from torch import distributed

from symmetry_robustness.files import remove_unfinished
from symmetry_robustness.runs.directory import CHECKPOINTS, SUMMARY, is_done, read_config
from symmetry_robustness.runs.exit_status import MISTAKE, REQUEUED, RESUMABLE, record_failure, run_guarded
from symmetry_robustness.runs.process import acquire_run_lock, end_with_parent, keep_freed_memory
from symmetry_robustness.runs.provenance import add_environment
from symmetry_robustness.runs.ranks import is_leader
from symmetry_robustness.runs.signals import Signals, requeue, slurm_job
from symmetry_robustness.runs.train import train
from symmetry_robustness.training import wandb_logger
from symmetry_robustness.training.console import set_up_logging

log = logging.getLogger("symmetry_robustness.runs.main")  # __name__ is __main__ here

_REQUEUE_S: Final = 30.0


def main(argv: list[str] | None = None) -> int:
    """Run or resume the job in the directory named by the one argument; a job that is done stays as it is.

    Returns:
        The exit status: 0; 2 for a user's mistake; 130 or 143 if a signal came and the job can be resumed; 75 if Slurm
        was asked to resume it.
    """
    keep_freed_memory()
    directory = Path((sys.argv[1:] if argv is None else argv)[0])
    config, leader = read_config(directory), is_leader()
    signals = Signals(leader=leader)
    # Other ranks end at once: only the first one saves.
    end_with_parent(partial(os.kill, os.getpid(), signal.SIGTERM) if leader else partial(os._exit, 1))
    set_up_logging(directory, leader=leader)
    status, owns = 1, False
    try:
        signals.install()
        if leader:
            acquire_run_lock(directory)
            owns = True  # only from here on may this process write the job's outcome
        if is_done(directory):
            log.info("%s is done already", directory)
            return 0
        if leader:
            remove_unfinished(directory)
            remove_unfinished(directory / CHECKPOINTS)
            (directory / SUMMARY).unlink(missing_ok=True)
            add_environment(directory)
        train(config, directory, signals)
        status = 0
    except BaseException as error:
        signals.waiting = True
        # Any rank may have failed first; once they know each other, the first rank has locked the directory.
        own = directory if owns or distributed.is_initialized() else None
        status = record_failure(error, signals, own, leader=leader)
        if status == REQUEUED and not leader:
            time.sleep(_REQUEUE_S)  # Slurm ends all ranks of a job when one has ended
        elif status == REQUEUED and not requeue(str(slurm_job())):
            status = 143
        if distributed.is_initialized() and (status == 1 or (status == MISTAKE and not leader)):
            traceback.print_exc()
            wandb_logger.finish(status)
            os._exit(status)  # Python's own end would wait for ranks that are gone
        if status in (1, MISTAKE):
            raise
    finally:
        wandb_logger.finish(status, resumable=status in RESUMABLE)
    return status


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m symmetry_robustness.runs.main RUN_DIRECTORY")
    sys.exit(run_guarded(main))
