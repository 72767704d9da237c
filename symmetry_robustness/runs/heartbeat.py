"""progress.json: shows that a run is alive, and its progress."""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl

from symmetry_robustness.runs.signals import slurm_job
from symmetry_robustness.training.best_effort_file import BestEffortFile
from symmetry_robustness.training.throughput import ThroughputMonitor

_EVERY_S: Final = 5.0  # between two writes


class Heartbeat(pl.Callback):
    """Writes progress.json every few seconds from its own thread, so that a slow file system delays nothing.

    The first of some metrics that has a value is written, too.
    """

    def __init__(self, path: Path, metrics: Sequence[str], throughput: ThroughputMonitor) -> None:
        self._metrics, self._throughput = metrics, throughput
        self._file = BestEffortFile(path)
        unknown = dict.fromkeys(("max_epochs", "steps", "images_per_second", "metric"))
        process = {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job_id": slurm_job()}
        self._progress: dict[str, Any] = {"phase": "starting", "epoch": 0, "step": 0, **unknown, **process}
        self._progress["started"] = time.time()
        self._woken, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Start the thread, on global rank 0."""
        self._thread.start()

    def stop(self) -> None:
        """Write once more and end the thread."""
        if self._thread.is_alive():
            self._ended.set()
            self._woken.set()
            self._thread.join(_EVERY_S)

    def _beat(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.is_set()
            self._woken.clear()
            self._file.write(json.dumps(self._progress | {"updated": time.time()}) + "\n")
            if not ended:
                self._woken.wait(_EVERY_S)

    def _enter(self, phase: str, trainer: pl.Trainer) -> None:
        for name in self._metrics:
            if (value := trainer.callback_metrics.get(name)) is not None:
                number = float(value)
                self._progress["metric"] = {"name": name, "value": number} if math.isfinite(number) else None
                break
        self._progress |= {"phase": phase, "epoch": trainer.current_epoch, "step": trainer.global_step}
        self._woken.set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the amount of work, and the step at which an earlier part of the run stopped."""
        epochs, batches = trainer.max_epochs, trainer.num_training_batches
        if epochs is not None and epochs > 0:  # otherwise steps or a time limit the training
            self._progress["max_epochs"] = epochs
            if isinstance(batches, int):
                self._progress["steps"] = epochs * math.ceil(batches / trainer.accumulate_grad_batches)
        self._progress["first_step"] = trainer.global_step  # earlier parts of the run say nothing about the pace

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record that the previous epoch is done."""
        self._enter("training", trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        """Count steps and images, without a read from the device."""
        speed = round(self._throughput.images_per_second, 1)
        self._progress |= {"phase": "training", "step": trainer.global_step, "images_per_second": speed}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the validation."""
        self._progress["phase"] = "evaluating"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the robustness evaluation."""
        self._enter("evaluating", trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the last robustness evaluation, perhaps in a process that has trained nothing."""
        self._progress["max_epochs"] = trainer.max_epochs
        self._enter("evaluating", trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the test."""
        self._progress["phase"] = "testing"
        self._woken.set()
