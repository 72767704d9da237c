"""Choosing a checkpoint by robustness, which not every epoch measures."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from symmetry_robustness.training.callback import RobustnessCallback


class RobustCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint of the best epoch, among those whose robustness was evaluated.

    After other epochs Lightning would find the value of an earlier one, or none, which is an error to it.

    Args:
        robustness: logs the metric.
        settings: of `ModelCheckpoint`.
    """

    def __init__(self, robustness: RobustnessCallback, **settings: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, **settings)
        self._robustness = robustness

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and save, if there is a value of this epoch."""
        if self._robustness.evaluated_epoch == trainer.current_epoch:
            super().on_train_epoch_end(trainer, pl_module)
