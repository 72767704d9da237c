"""AWP: any objective at weights that were moved against it."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, distributed, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import (
    AdversarialObjective,
    Mode,
    Objective,
    Passes,
    Result,
    add_passes,
    check_weight,
    crafting,
)
from symmetry_robustness.training.objectives.pgd_at import PGDTraining
from symmetry_robustness.training.objectives.weights import replaced
from symmetry_robustness.training.objectives.wrapper import Wrapper


@final
@checked
@dataclass
class AdversarialWeightPerturbation(Wrapper):
    """Another objective at weights that one step of steepest ascent has moved, by gamma times their length.

    The step is taken on the objective's own loss, at the same attacked images and the same random draws, over the
    images of all ranks. Each parameter with more than one axis moves by its own length, so biases and norms stay where
    they are; for group convolutions these are the stored coefficients, not the filters expanded from them. The moved
    weights are tensors of their own, through which gradients flow unchanged: the parameters are never touched, and the
    optimiser steps from them. Running statistics learn from the pass at the moved weights, as in the source's script.
    An objective that does not separate its attack from its loss is computed twice as a whole.

    Source: arXiv 2004.05884; its script has gamma 0.01 from the beginning around PGD training, and 0.005 from epoch 10
    on around TRADES.

    Args:
        around: the objective.
        gamma: length of the movement relative to that of the weights; 0 is the objective itself.
        start_epoch: epoch from which on weights are moved, counted from 0.
    """

    around: Objective = field(default_factory=PGDTraining)
    gamma: float = 0.01
    start_epoch: int = 0
    _epoch: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_weight("gamma", self.gamma)
        if self.start_epoch < 0:
            raise UserError(f"start_epoch must not be negative, got {self.start_epoch}; 0 is the first epoch")
        super().__post_init__()

    @property
    def passes(self) -> Passes:
        """Those of the objective, and of its loss once more for the step; before `start_epoch` the former alone."""
        own: Passes = self.around.passes  # type: ignore[attr-defined]
        if not self._moves():
            return own
        return add_passes(own, self.around.loss_passes if isinstance(self.around, AdversarialObjective) else own)

    @property
    def terms(self) -> tuple[str, ...]:
        """Those of the objective, at the moved weights."""
        return getattr(self.around, "terms", ())

    @property
    def second_derivatives(self) -> Mode | None:
        """Those of the objective."""
        return getattr(self.around, "second_derivatives", None)

    @property
    def reads_layers(self) -> bool:
        """Whether the objective does."""
        return getattr(self.around, "reads_layers", False)

    def set_epoch(self, epoch: int) -> None:
        """Take note of the epoch."""
        self._epoch = epoch
        super().set_epoch(epoch)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Result:
        """Return the objective's loss and logits at the moved weights."""
        around = self.around
        if not self._moves():
            return around(network, images, labels)
        attacked = around.attacked(network, images, labels) if isinstance(around, AdversarialObjective) else None

        def loss() -> Result:
            if attacked is None:
                return around(network, images, labels)
            assert isinstance(around, AdversarialObjective)
            return around.loss(network, images, attacked, labels)

        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), crafting(network, "training"):
            offsets = self.offsets(network, loss()[0], len(images))
        with replaced(network, {parameter: parameter + offset for parameter, offset in offsets.items()}):
            return loss()

    def _moves(self) -> bool:
        """Whether weights are moved in this epoch."""
        return bool(self.gamma) and (self._epoch is None or self._epoch >= self.start_epoch)

    def offsets(self, network: nn.Module, loss: Tensor, images: int) -> dict[nn.Parameter, Tensor]:
        """Movement of each parameter with more than one axis along its gradient, of gamma times its length.

        Args:
            network: whose parameters they are.
            loss: (), mean over this rank's images; its graph is consumed.
            images: how many they are.
        """
        parameters = [p for p in network.parameters() if p.ndim > 1 and p.requires_grad]
        found = torch.autograd.grad(loss * images, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        offsets = {}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(gradient)
            length = self.gamma * parameter.detach().norm()
            offsets[parameter] = gradient * (length / gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny))
        return offsets
