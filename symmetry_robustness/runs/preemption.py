"""A checkpoint in the middle of an epoch when a signal ends the job."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import distributed

from symmetry_robustness.runs.signals import Interrupted, Signals

log = logging.getLogger(__name__)


class PreemptionCheckpoint(Checkpoint):
    """Saves after the batch in which a signal came, on which all ranks agree, and ends the job.

    One process reads its own flag. Several take the maximum of theirs in an all-reduce of one number between CPUs,
    which runs beside the next batch and is read after it, so that no GPU is waited for. Nothing is saved after an
    epoch's last batch, where Lightning 2.6 would take the epoch for finished: there, as in evaluations, the job ends
    and resumes from the previous checkpoint.
    """

    def __init__(self, path: Path, signals: Signals) -> None:
        self._path, self._signals = path, signals
        self._agreed: signal.Signals | None = None
        self._saved = False
        self._flag = torch.zeros(1, dtype=torch.int64)
        self._group: Any = None
        self._exchange: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, and open a channel between the ranks."""
        self._signals.install()
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """End if the state was saved after the previous batch, whose metrics have been logged by now.

        Raises:
            Interrupted: the state was saved.
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
            self._end_if_received()
        elif self._agreed is not None and _is_complete(trainer, batch_idx):
            trainer.save_checkpoint(self._path)
            self._saved = True
            if trainer.is_global_zero:
                log.info("%s: saved in epoch %d", self._agreed.name, trainer.current_epoch + 1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End if a signal came: an evaluation has nothing to save."""
        self._end_if_received()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning."""
        self._signals.install()

    def _end_if_received(self) -> None:
        if self._agreed is not None:
            raise Interrupted(self._agreed)
        self._signals.end_if_received()

    def _agree(self) -> signal.Signals | None:
        """The signal that one of the ranks has received, the same on each of them after the same batch."""
        if self._group is None:
            return self._signals.received
        if self._exchange is not None:
            self._exchange.wait()
            if number := int(self._flag):
                return signal.Signals(number)
        self._flag.fill_(self._signals.received or 0)
        self._exchange = distributed.all_reduce(self._flag, distributed.ReduceOp.MAX, self._group, async_op=True)
        return None


def _is_complete(trainer: pl.Trainer, batch_index: int) -> bool:
    """Whether this batch ended with an optimiser step and no validation comes before the next batch."""
    done, validation = batch_index + 1, trainer.val_check_batch
    validates = isinstance(validation, int) and done % validation == 0
    return done % trainer.accumulate_grad_batches == 0 and not validates
