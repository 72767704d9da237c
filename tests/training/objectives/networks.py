"""Tiny networks, batches, and a layer that counts the passes through it."""

from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 3


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    """Images (B, 3, 4, 4) that keep 0.25 from 0 and 1, and labels."""
    return 0.25 + 0.5 * torch.rand(size, 3, 4, 4), torch.randint(CLASSES, (size,))


def linear_network(classes: int = CLASSES) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))


def smooth_network() -> nn.Module:
    """A network with batch norm, whose second derivatives exist."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), Counter(), nn.Flatten(), nn.Linear(16, CLASSES)
    )


class Counter(nn.Module):
    """Passes values on, and counts images forward and backward, backward passes of gradients included."""

    def __init__(self) -> None:
        super().__init__()
        self.forward_images = self.backward_images = 0

    def forward(self, values: Tensor) -> Tensor:
        self.forward_images += len(values)
        return _Counted.apply(values, self)  # type: ignore[no-any-return, no-untyped-call]


class _Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counter: Counter) -> Tensor:
        ctx.counter = counter
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _CountedBackward.apply(gradient, ctx.counter), None  # type: ignore[no-untyped-call]


class _CountedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, counter: Counter) -> Tensor:
        ctx.counter = counter
        counter.backward_images += len(gradient)
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.counter.backward_images += len(gradient)
        return gradient, None
