"""Checkpoints: written atomically, found again, and chosen by robustness."""

import io
import logging
import zipfile
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from symmetry_robustness.files import DAMAGED_ARCHIVE
from symmetry_robustness.models.checkpoint import DAMAGE
from symmetry_robustness.training.best_effort_file import BestEffortFile
from symmetry_robustness.training.callback import RobustnessCallback

log = logging.getLogger(__name__)

LAST: Final = "last.ckpt"
# Saved in the middle of an epoch; removed once a later last.ckpt exists.
INTERRUPTED: Final = "interrupted.ckpt"


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints atomically, so that no kill leaves half of one under its name.

    Lightning's own way goes through the folder for temporary files; where that is another file system, moving is
    copying. A checkpoint that cannot be written does not end the training, see `last_error`.
    """

    def __init__(self) -> None:
        self._files: dict[Path, BestEffortFile] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`, or log the reason why not."""
        place = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        self._files.setdefault(place, BestEffortFile(place)).write(content.getbuffer(), durable=True)

    def last_error(self, path: Path) -> str | None:
        """Reason why the last write of a file failed; None if it succeeded, or there was none."""
        file = self._files.get(path)
        return file.last_error if file else None


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest intact checkpoint and its optimiser steps, else None."""
    found = []
    for path in (folder / LAST, folder / INTERRUPTED):
        if path.exists():
            steps = _steps_of_intact(path)
            if steps is None:
                log.warning("%s is damaged and not used", path)
            else:
                found.append((path, steps))
    return max(found, key=lambda pair: pair[1], default=None)


def _steps_of_intact(path: Path) -> int | None:
    """Optimiser steps of a checkpoint, None if a byte of it has changed."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (*DAMAGE, *DAMAGED_ARCHIVE):
        return None


class EpochCheckpoint(Checkpoint):
    """Saves last.ckpt: the state between two epochs, after the first one was evaluated and logged.

    Lightning's ModelCheckpoint saves before the epoch's metrics are logged, so that a kill between the two would lose
    them.

    Args:
        folder: of the checkpoint.
        files: writes it.
    """

    def __init__(self, folder: Path, files: CheckpointFiles) -> None:
        self._folder, self._files = folder, files
        self._saved = 0  # optimiser steps

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the loop's counters to the state between two epochs; from others Lightning 2.6 miscounts later."""
        for counts in ("total", "current"):
            progress = checkpoint["loops"]["fit_loop"]["epoch_progress"][counts]
            if progress["started"] == progress["processed"]:
                progress["ready"] = progress["completed"] = progress["processed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the steps that are saved already."""
        self._saved = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state after the previous epoch, if there was one."""
        if trainer.global_step == self._saved:
            return
        self._saved = trainer.global_step
        trainer.save_checkpoint(self._folder / LAST)
        if trainer.is_global_zero and self._files.last_error(self._folder / LAST) is None:
            _remove(self._folder / INTERRUPTED)

    on_train_end = on_train_epoch_start


def _remove(path: Path) -> None:
    """Remove a file if possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed (%s)", path, error.strerror)


class RobustCheckpoint(ModelCheckpoint):
    """Checkpoint of the best epoch among those whose robustness was evaluated.

    After other epochs Lightning would compare the value of an earlier one, or raise because there is none.

    Args:
        robustness: logs the metric.
        settings: of `ModelCheckpoint`.
    """

    def __init__(self, robustness: RobustnessCallback, **settings: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, **settings)
        self._robustness = robustness

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and save, if this epoch was evaluated."""
        if self._robustness.evaluated_epoch == trainer.current_epoch:
            super().on_train_epoch_end(trainer, pl_module)
