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

from symmetry_robustness.runs.process import JobProcess

log = logging.getLogger("symmetry_robustness.runs.ranks")

_LOOK_EVERY_S: Final = 0.5
# After the end of one rank the others learn of it from their next exchange, except where a GPU waits for it.
_PATIENCE_S: Final = 15.0
_FAREWELL_S: Final = 5.0
# The kernel closes the connections of a process, which others notice, before it says that the process has ended.
_DYING_S: Final = 2.0


def is_leader() -> bool:
    """Whether this process is global rank 0, told before there is a Trainer that knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of srun, which is there and was not used
        by_slurm = SLURMEnvironment.detect()
    if by_slurm:
        return os.environ["SLURM_PROCID"] == "0"
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


@final
class Ranks:
    """The other ranks on this machine, which run the same command; none where something else starts them, or nothing.

    Lightning would start them, too, but kills all with SIGKILL when one has died, so that nobody is left to say so, and
    leaves them behind when the first one has died.

    Args:
        trainer: knows how many there are; has not begun.
        directory: the run directory.
        give_up: is called with a reason when a rank has died and this process does not end because of it.
    """

    def __init__(self, trainer: pl.Trainer, directory: Path, give_up: Callable[[str], None]) -> None:
        self._processes: dict[int, JobProcess] = {}
        self._give_up = give_up
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
        os.environ["LOCAL_RANK"] = "0"  # tells Lightning that the processes are there
        threading.Thread(target=self._watch, daemon=True).start()

    def lost(self) -> str | None:
        """Which rank was ended by a signal, None if none was; waits for one that is about to end."""
        deadline = time.monotonic() + _DYING_S
        while True:
            running = self._are_running()
            for rank, process in self._processes.items():
                if (status := process.status()) is not None and status < 0:
                    return f"rank {rank} was ended by {signal.Signals(-status).name}"
            if not running or time.monotonic() > deadline:
                return None
            time.sleep(0.05)

    def end(self) -> None:
        """Let the ranks end, and kill those that do not."""
        self._ended.set()
        deadline = time.monotonic() + _FAREWELL_S
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
                    self._give_up(self.lost() or "a rank has failed")
                return
