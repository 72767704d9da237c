"""The processes of one job on one machine."""

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.runs.process import JobProcess

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.5
# The other ranks learn of the end of one from their next exchange, except where a GPU waits for it.
_PATIENCE_S: Final = 15.0
FAREWELL_S: Final = 5.0
# The kernel closes the connections of a process, which others notice, before it reports the end of the process.
_DYING_S: Final = 2.0


def started_by_slurm() -> bool:
    """Whether srun started this process and its ranks.

    Within an allocation without srun, Lightning 2.6 would wait for ranks that nobody starts. There this process hides
    the number of tasks from it, and says so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about srun, which is installed and was not used
        detected = SLURMEnvironment.detect()
    if detected and "SLURM_PROCID" not in os.environ:
        tasks = os.environ.pop("SLURM_NTASKS")
        log.warning("Slurm allocated %s tasks, but srun did not start this process; it runs alone", tasks)
        return False
    return detected


def slurm_environment() -> SLURMEnvironment:
    """Facts that Lightning reads of Slurm; this project asks for the requeue itself.

    Raises:
        UserError: Slurm has started other tasks than Lightning can use.
    """
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise UserError(one_line(error)) from error


def is_leader() -> bool:
    """Whether this process is global rank 0, known before there is a Trainer."""
    if started_by_slurm():
        return os.environ["SLURM_PROCID"] == "0"
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


@final
class Ranks:
    """The other ranks of the job on this machine; none if something else starts them.

    Lightning's launcher kills all ranks with SIGKILL when one has died, so that none can report it, and leaves them
    behind when the first one has died.

    Args:
        trainer: has not begun.
        directory: the run directory.
        on_rank_lost: called with a reason when a rank has died and this process does not end because of it.
    """

    def __init__(self, trainer: pl.Trainer, directory: Path, on_rank_lost: Callable[[str], None]) -> None:
        self._processes: dict[int, JobProcess] = {}
        self._on_rank_lost = on_rank_lost
        self._ended = threading.Event()
        environment = getattr(trainer.strategy, "cluster_environment", None)
        starts = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
        if not starts or environment is None or environment.creates_processes_externally:
            return
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "WORLD_SIZE": str(trainer.world_size),
        }
        for rank in range(1, trainer.num_devices):
            self._processes[rank] = JobProcess(directory, {"LOCAL_RANK": str(rank)})
        os.environ["LOCAL_RANK"] = "0"  # Lightning reads this as: the processes exist
        threading.Thread(target=self._watch, daemon=True).start()

    def lost(self) -> str | None:
        """The rank that a signal ended and the signal, else None; waits for one that is about to end."""
        deadline = time.monotonic() + _DYING_S
        while True:
            running = self._are_running()
            for rank, process in self._processes.items():
                if (status := process.status()) is not None and status < 0:
                    return f"rank {rank} was ended by {signal.Signals(-status).name}"
            if not running or time.monotonic() > deadline:
                return None
            time.sleep(0.05)

    def end(self, patience: float = FAREWELL_S) -> None:
        """Wait so many seconds for the ranks to end, then kill those that have not."""
        self._ended.set()
        deadline = time.monotonic() + patience
        while self._are_running() and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in self._processes.values():
            process.send(signal.SIGKILL)
            process.wait()

    def _are_running(self) -> bool:
        return any(process.status() is None for process in self._processes.values())

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            if any(process.status() for process in self._processes.values()):
                if not self._ended.wait(_PATIENCE_S):
                    self._on_rank_lost(self.lost() or "a rank has failed")
                return
