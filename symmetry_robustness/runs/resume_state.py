"""State that a bit-exact continuation needs and Lightning leaves out of checkpoints."""

import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import distributed, nn
from torchmetrics import Metric

log = logging.getLogger(__name__)


class ResumeState(pl.Callback):
    """Saves random states, partial metrics and states of the objective of every rank, and restores them.

    Where another number of ranks resumes, each takes the objective's state of one that was, and nothing else.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states of all ranks; every rank calls this."""
        counts = {
            name: {key: state.cpu() for key, state in metric.metric_state.items() if isinstance(state, torch.Tensor)}
            for name, metric in _metrics(pl_module)
        }
        own = {"random": random_states(pl_module.device), "metrics": counts}
        if (objective := _stateful(pl_module)) is not None:
            own["objective"] = move_data_to_device(objective.state_dict(), "cpu")
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            distributed.all_gather_object(states, own)
        checkpoint["ranks"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Hold the states until the module is on its device and every random generator is set up."""
        self._loaded = checkpoint.get("ranks")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the states of this rank."""
        states, self._loaded = self._loaded, None
        if states is None:
            return
        own = states[trainer.global_rank % len(states)]
        objective = _stateful(pl_module)
        if objective is not None and "objective" in own:
            objective.load_state_dict(move_data_to_device(own["objective"], pl_module.device))
        if len(states) != trainer.world_size:
            if trainer.is_global_zero:
                log.warning(
                    "the checkpoint was written by %d processes, %d resume it: random numbers differ from an "
                    "uninterrupted run's, and training metrics of this epoch count from here",
                    len(states),
                    trainer.world_size,
                )
            return
        restore_random_states(own["random"], pl_module.device)
        for name, metric in _metrics(pl_module):
            for key, state in own["metrics"].get(name, {}).items():
                setattr(metric, key, state.to(pl_module.device))


def _stateful(module: pl.LightningModule) -> Any:
    """The objective if it has a state; None if it has none, or is a part of the module, which Lightning saves."""
    objective = getattr(module, "objective", None)
    return objective if hasattr(objective, "state_dict") and not isinstance(objective, nn.Module) else None


def _metrics(module: pl.LightningModule) -> Iterator[tuple[str, Metric]]:
    return ((name, metric) for name, metric in module.named_modules() if isinstance(metric, Metric))


def random_states(device: torch.device) -> dict[str, Any]:
    """States of the global generators, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - code that uses the global generator relies on it
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
    }
    return states | ({"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the global generators to the result of `random_states`."""
    torch.set_rng_state(states["torch"])
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if device.type == "cuda" and "device" in states:
        torch.cuda.set_rng_state(states["device"], device)
