"""Costs of a training: time, throughput, and the arithmetic of one forward pass."""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from symmetry_robustness.models import export


class ThroughputMonitor(pl.Callback):
    """Counts seconds and images of training, from the start of each epoch to the end of its last batch.

    Validation, evaluations of robustness and checkpoints do not count. A resumed run continues the counts of its
    checkpoint. This callback precedes those that read its counts.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, self.images = 0.0, 0
        self._clock, self._last = clock, 0.0
        self._before = self.seconds, self.images

    @property
    def images_per_second(self) -> float:
        """Throughput of all ranks together, over the part of this epoch that this process has trained."""
        seconds, images = self._before
        return (self.images - images) / (self.seconds - seconds) if self.seconds > seconds else 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the time between two epochs."""
        self._last, self._before = self._clock(), (self.seconds, self.images)

    on_train_start = on_train_epoch_start  # a run resumed in the middle of an epoch does not start that epoch again

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch, the same number of images on every rank; a GPU is waited for only after the last one."""
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = self._clock()
        self.seconds += now - self._last
        self.images += len(batch[1]) * trainer.world_size
        self._last = now

    def state_dict(self) -> dict[str, Any]:
        """Counts for a resumed run."""
        return {"seconds": self.seconds, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.seconds, self.images = state_dict["seconds"], state_dict["images"]


def training_cost(trainer: pl.Trainer, network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """Costs of a finished training, for summary.json.

    Args:
        trainer: with a `ThroughputMonitor` among its callbacks.
        network: as trained.
        image_shape: (C, H, W).

    Returns:
        `flops` of one image's forward pass, `epochs`, `training_seconds` and `images_per_second` of all ranks together.
    """
    (monitor,) = (callback for callback in trainer.callbacks if isinstance(callback, ThroughputMonitor))  # type: ignore[attr-defined]
    return {
        "flops": count_flops(network, image_shape),
        "epochs": trainer.current_epoch,
        "training_seconds": monitor.seconds,
        "images_per_second": monitor.images / monitor.seconds if monitor.seconds else 0.0,
    }


def count_flops(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiplications and additions of the convolutions and matrix products of one image's forward pass.

    Counted on the exported network, whose kernels are expanded once and for all; neither the network nor any random
    state is touched.

    Args:
        network: images in [0, 1] to logits.
        image_shape: (C, H, W).
    """
    plain = export(network).cpu()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain(torch.zeros(1, *image_shape))
    return int(counter.get_total_flops())
