"""Weights averaged over the steps of a training, in place of the last ones."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.models.checkpoint import PREFIX

_LIVE = "live_weights"  # in a checkpoint: those that the optimiser goes on from


class WeightAverage(pl.Callback):
    """Keeps an exponential moving average of the weights, and has it judged and saved in their place.

    Validation, evaluations of robustness and tests see the averaged weights, and checkpoints hold them as those of the
    network; the live ones, which a checkpoint holds beside them, are trained. Running statistics of batch norms are
    those of the live weights. This callback precedes the ones that evaluate after an epoch.

    Source: arXiv 2010.03593, sec. 4.3.2; the warm-up is that of a released reimplementation, which besides keeps
    nothing in the first 2.5 % of the steps.

    Args:
        decay: share of the average that a step keeps; 0 gives the live weights.
        warm_up: keep no more than (1 + t) / (10 + t) of it in step t, so that early weights are forgotten soon.

    Raises:
        UserError: the decay is no share.
    """

    def __init__(self, decay: float = 0.995, warm_up: bool = True) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"averaging.decay must lie in [0, 1), got {decay}; 0.995 is usual")
        self.decay, self.warm_up = decay, warm_up
        self._other: list[Tensor] = []  # weights that are not in the network: averaged ones during training, else live
        self._judged = False  # whether the averaged ones are in the network
        self._updates = self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights of the network, unless a checkpoint has set the average."""
        weights = _weights(pl_module)
        stored = self._other or weights
        self._other = [
            other.detach().to(weight.device, copy=True) for other, weight in zip(stored, weights, strict=True)
        ]
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Average, if the optimiser has made a step."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        kept = min(self.decay, (1 + self._updates) / (10 + self._updates)) if self.warm_up else self.decay
        self._updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(self._other, [*_weights(pl_module)], 1 - kept)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the averaged weights."""
        self._show(pl_module, averaged=True)

    on_train_epoch_end = on_fit_end = on_validation_epoch_start  # a training resumed at its end has no more epochs

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train the live weights."""
        self._show(pl_module, averaged=False)

    on_train_epoch_start = on_validation_epoch_end

    def _show(self, module: pl.LightningModule, *, averaged: bool) -> None:
        """Exchange the weights in the network for the others, unless they are the ones that are asked for."""
        if averaged == self._judged or not self._other:
            return
        with torch.no_grad():
            for weight, other in zip(_weights(module), self._other, strict=True):
                kept = other.clone()
                other.copy_(weight)
                weight.copy_(kept)
        self._judged = averaged

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the averaged weights as the network's, and the live ones beside them."""
        names = [f"{PREFIX}{name}" for name, _ in _network(pl_module).named_parameters()]
        inside, outside = dict(zip(names, _weights(pl_module), strict=True)), dict(zip(names, self._other, strict=True))
        averaged, live = (inside, outside) if self._judged else (outside, inside)
        checkpoint["state_dict"] = checkpoint["state_dict"] | {name: value.detach() for name, value in averaged.items()}
        checkpoint[_LIVE] = {name: value.detach() for name, value in live.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take both kinds of weights apart; the module was given the averaged ones before.

        The average begins with the weights of a checkpoint that was written without one.
        """
        if _LIVE not in checkpoint:
            return
        names = [f"{PREFIX}{name}" for name, _ in _network(pl_module).named_parameters()]
        self._other = [checkpoint["state_dict"][name].clone() for name in names]
        self._judged = False
        with torch.no_grad():
            for name, weight in zip(names, _weights(pl_module), strict=True):
                weight.copy_(checkpoint[_LIVE][name])

    def state_dict(self) -> dict[str, Any]:
        """Number of steps that were averaged."""
        return {"updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number."""
        self._updates = state_dict["updates"]


def _network(module: pl.LightningModule) -> nn.Module:
    network: nn.Module = module.network  # type: ignore[assignment]
    return network


def _weights(module: pl.LightningModule) -> list[Tensor]:
    return list(_network(module).parameters())
