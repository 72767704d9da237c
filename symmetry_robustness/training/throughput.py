"""Costs of a training: time, throughput, memory, and the arithmetic of a forward pass and of a whole step."""

import contextlib
import copy
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from symmetry_robustness.layers.expansion_cache import frozen_weights
from symmetry_robustness.models import export
from symmetry_robustness.training.objectives import Objective
from symmetry_robustness.training.objectives.base import run_update


class ThroughputMonitor(pl.Callback):
    """Counts seconds and images of training, from the start of each epoch to the end of its last batch.

    Validation, evaluations of robustness and checkpoints do not count. A resumed run continues the counts of its
    checkpoint. This callback precedes those that read its counts.

    `peak_memory`, in bytes, is the most that was in use until the end of the first epoch's last batch: by tensors on a
    GPU, else by the whole process. Memory of evaluations comes later and does not count.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, self.images, self.peak_memory = 0.0, 0, 0
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
        if trainer.is_last_batch and not self.peak_memory:
            self.peak_memory = peak_memory(pl_module.device)
        now = self._clock()
        self.seconds += now - self._last
        self.images += len(batch[1]) * trainer.world_size
        self._last = now

    def state_dict(self) -> dict[str, Any]:
        """Counts for a resumed run."""
        return {"seconds": self.seconds, "images": self.images, "peak_memory": self.peak_memory}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.seconds, self.images = state_dict["seconds"], state_dict["images"]
        self.peak_memory = state_dict.get("peak_memory", 0)


def training_cost(
    trainer: pl.Trainer, network: nn.Module, objective: Objective, images: Tensor, labels: Tensor
) -> dict[str, float]:
    """Costs of a finished training, for summary.json.

    Args:
        trainer: with a `ThroughputMonitor` among its callbacks.
        network: as trained.
        objective: that it was trained on.
        images: of a step on this rank, (B, C, H, W), on the network's device.
        labels: (B,).

    Returns:
        `flops` of one image's forward pass; `step_flops` of a step of the last epoch on one rank's images, and
        `training_flops` of all steps; `forward_passes` and `backward_passes` of a step of the last epoch, if the
        objective states them; `epochs`; `training_seconds` and `images_per_second` of all ranks together;
        `peak_memory` of one rank, in bytes.
    """
    (monitor,) = (callback for callback in trainer.callbacks if isinstance(callback, ThroughputMonitor))  # type: ignore[attr-defined]
    objective = copy.deepcopy(objective)
    steps: list[int] = []
    counted: dict[tuple[int, ...], int] = {}  # an objective that changes with the epochs changes its passes
    for epoch in range(max(trainer.current_epoch, 1)):
        if set_epoch := getattr(objective, "set_epoch", None):
            set_epoch(epoch)
        passes = getattr(objective, "passes", None)
        key = tuple(passes or ())
        if key not in counted:
            counted[key] = count_step_flops(network, objective, images, labels)
        steps.append(counted[key])
    return {
        "flops": count_flops(network, tuple(images.shape[1:])),
        "step_flops": steps[-1],
        "training_flops": round(sum(steps) / len(steps) / len(labels) * monitor.images),
        **(dict(zip(("forward_passes", "backward_passes"), passes, strict=True)) if passes else {}),
        "epochs": trainer.current_epoch,
        "training_seconds": monitor.seconds,
        "images_per_second": monitor.images / monitor.seconds if monitor.seconds else 0.0,
        "peak_memory": monitor.peak_memory,
    }


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use so far: of tensors on a GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def count_step_flops(network: nn.Module, objective: Objective, images: Tensor, labels: Tensor) -> int:
    """Multiplications and additions of the convolutions and matrix products of one real step, attack included.

    Counted on copies, so that neither network nor objective nor random numbers change. Every rank takes part, since
    batch norms may share statistics.

    Args:
        network: images in [0, 1] to logits.
        objective: that it is trained on.
        images: (B, C, H, W), on the network's device.
        labels: (B,).
    """
    network, objective = copy.deepcopy((network, objective))
    network._compiled_call_impl = None  # operations inside compiled code are not seen
    devices = [images.device] if images.device.type == "cuda" else []

    def step() -> None:
        loss = objective(network, images, labels)[0]
        loss.backward()  # type: ignore[no-untyped-call]

    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = _Everything()
    with torch.random.fork_rng(devices=devices), counter, frozen_weights(object()):
        run_update(objective, network.train(), step)
    return int(counter.get_total_flops())


class _Everything(contextlib.nullcontext[None]):
    """In place of torch's tracker of modules, whose hooks do not allow gradients by images."""

    parents = frozenset({"Global"})


def count_flops(network: nn.Module, image_shape: tuple[int, ...]) -> int:
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
