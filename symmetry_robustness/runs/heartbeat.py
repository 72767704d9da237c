"""progress.json: that a run is alive, and how far it is."""

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl

from symmetry_robustness.runs.preemption import slurm_job
from symmetry_robustness.training.best_effort_file import Outlet
from symmetry_robustness.training.throughput import TrainingClock

log = logging.getLogger(__name__)

_EVERY_S: Final = 5.0


class Heartbeat(pl.Callback):
    """Writes progress.json from a thread of its own every few seconds, so that a slow file system holds nobody up.

    Args:
        path: of progress.json.
        metrics: names of metrics, of which the first one that is known is told.
        clock: counts the images.
        every_s: seconds from one writing to the next.
    """

    def __init__(self, path: Path, metrics: Sequence[str], clock: TrainingClock, every_s: float = _EVERY_S) -> None:
        self._metrics, self._clock, self._every_s = metrics, clock, every_s
        self._outlet = Outlet(path)
        self._known: dict[str, Any] = {
            "phase": "starting",
            "epoch": 0,
            "max_epochs": None,
            "step": 0,
            "steps": None,
            "images_per_second": None,
            "metric": None,
            "started": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job_id": slurm_job(),
        }
        self._woken, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Begin to write, in the process of global rank 0."""
        self._thread.start()

    def stop(self) -> None:
        """Write once more and end."""
        if self._thread.is_alive():
            self._ended.set()
            self._woken.set()
            self._thread.join(self._every_s)

    def _beat(self) -> None:
        while True:
            ended = self._ended.is_set()
            self._woken.clear()
            self._outlet.write(json.dumps(self._known | {"updated": time.time()}) + "\n")
            if ended:
                return
            self._woken.wait(self._every_s)

    def _enter(self, phase: str, trainer: pl.Trainer) -> None:
        for name in self._metrics:
            if (value := trainer.callback_metrics.get(name)) is not None:
                number = float(value)
                self._known["metric"] = {"name": name, "value": number} if math.isfinite(number) else None
                break
        self._known |= {"phase": phase, "epoch": trainer.current_epoch, "step": trainer.global_step}
        self._woken.set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how much there is to do, and where an earlier part of the run has stopped."""
        epochs, batches = trainer.max_epochs, trainer.num_training_batches
        if epochs is not None and epochs > 0:  # otherwise a number of steps or a time is asked for
            self._known["max_epochs"] = epochs
            if isinstance(batches, int):
                self._known["steps"] = epochs * math.ceil(batches / trainer.accumulate_grad_batches)
        self._known["first_step"] = trainer.global_step  # what an earlier part of the run did says nothing of its pace
        self._enter("training", trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch begins, the one before is done."""
        self._enter("training", trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        """Count; nothing is read from the device."""
        self._known["step"] = trainer.global_step
        self._known["images_per_second"] = round(self._clock.images_per_second, 1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clean accuracy is evaluated."""
        self._known["phase"] = "evaluating"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Robustness is evaluated."""
        self._enter("evaluating", trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Robustness is evaluated for the last time, perhaps by a process that has trained nothing."""
        self._known["max_epochs"] = trainer.max_epochs
        self._enter("evaluating", trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clean accuracy on the test images."""
        self._known["phase"] = "testing"
        self._woken.set()
