"""Signals that end a job, and how it saves itself before it does."""

import logging
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import distributed

log = logging.getLogger(__name__)

# Slurm's warning before the time limit; SIGTERM is preemption, `scontrol requeue`, `kill`; SIGINT is Ctrl-C.
WARNINGS: Final = (signal.SIGUSR1, signal.SIGUSR2)
_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, *WARNINGS)
REQUEUED: Final = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Interrupted(BaseException):
    """A signal ends the job; what cannot be had again has been saved.

    Args:
        number: the signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Signals:
    """Takes the signals that would end this process.

    While batches are trained a signal is only noted, and `Interruption` acts on it. At any other time there is nothing
    to save, and the process ends: it raises `Interrupted`. A second SIGINT ends it without further ado.

    Args:
        leader: whether this process is global rank 0; others only note, and end with it or by agreement.

    Attributes:
        noted: the first signal that came.
        waiting: whether batches are being trained, or the process is ending already.
    """

    def __init__(self, *, leader: bool) -> None:
        self.noted: signal.Signals | None = None
        self.waiting = False
        self._leader = leader

    def install(self) -> None:
        """Handle the signals, in place of what Lightning does on SIGTERM: it speaks to other ranks from the handler."""
        for number in _HANDLED:
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)  # a job is started with some blocked, kept for it

    def end_if_noted(self) -> None:
        """End if a signal came, from now on as soon as one comes.

        Raises:
            Interrupted: there was a signal.
        """
        self.waiting = False
        if self.noted is not None and self._leader:
            raise Interrupted(self.noted)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == self.noted == signal.SIGINT:
            os._exit(128 + number)
        self.noted = self.noted or signal.Signals(number)
        if not self.waiting:
            self.end_if_noted()


class Interruption(Checkpoint):
    """Acts on a noted signal at the end of a batch: all ranks agree, save the middle of the epoch, and end.

    One process asks nobody. Several add up their notes in an all-reduce of one number among CPUs, which runs beside the
    next batch and is read after it, so that no GPU is waited for. Nothing is saved at the end of an epoch's last batch,
    where Lightning 2.6 would take the epoch for finished: there, as in evaluations, the job ends and goes on from the
    checkpoint before.

    Args:
        path: of the checkpoint.
        signals: of this process.
    """

    def __init__(self, path: Path, signals: Signals) -> None:
        self._path, self._signals = path, signals
        self._agreed: signal.Signals | None = None
        self._saved = False
        self._flag = torch.zeros(1, dtype=torch.int64)
        self._group: Any = None
        self._exchange: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, and open the ranks' channel."""
        self._signals.install()
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """End here if the state was saved after the batch before, which has been logged by now.

        Raises:
            Interrupted: it was.
        """
        if self._saved and self._agreed is not None:
            raise Interrupted(self._agreed)
        self._signals.waiting = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        """Save if a signal came, unless an optimiser step or a validation is still due."""
        if self._agreed is None:
            self._agreed = self._agree()
        if trainer.is_last_batch:
            self._end_if_noted()
        elif self._agreed is not None and _is_complete(trainer, batch_idx):
            self._save(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An evaluation has nothing to save."""
        self._end_if_noted()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning."""
        self._signals.install()

    def _end_if_noted(self) -> None:
        if self._agreed is not None:
            raise Interrupted(self._agreed)
        self._signals.end_if_noted()

    def _agree(self) -> signal.Signals | None:
        """The signal that one of the ranks has noted, the same on each of them after the same batch."""
        if self._group is None:
            return self._signals.noted
        if self._exchange is not None:
            self._exchange.wait()
            if number := int(self._flag):
                return signal.Signals(number)
        self._flag.fill_(self._signals.noted or 0)
        self._exchange = distributed.all_reduce(self._flag, distributed.ReduceOp.MAX, self._group, async_op=True)
        return None

    def _save(self, trainer: pl.Trainer) -> None:
        assert self._agreed is not None
        trainer.save_checkpoint(self._path)
        self._saved = True
        if trainer.is_global_zero:
            log.info("%s: saved in epoch %d", self._agreed.name, trainer.current_epoch + 1)


def _is_complete(trainer: pl.Trainer, batch_index: int) -> bool:
    """Whether after this batch no gradient is kept for a later step, and no validation comes before the next batch."""
    done, validation = batch_index + 1, trainer.val_check_batch
    validates = isinstance(validation, int) and done % validation == 0
    return done % trainer.accumulate_grad_batches == 0 and not validates


def slurm_job() -> str | None:
    """The job, or the task of an array, as Slurm's commands name it; None outside of Slurm."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def requeue(job: str) -> bool:
    """Ask Slurm to run a job again; tells whether it agreed."""
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        log.error("Slurm job %s: not requeued (%s)", job, error)
        return False
    if asked.returncode:
        log.error("Slurm job %s: not requeued (%s)", job, " ".join(asked.stderr.split()))
    else:
        log.info("Slurm job %s: requeued", job)
    return asked.returncode == 0
