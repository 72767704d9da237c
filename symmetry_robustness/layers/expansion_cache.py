"""What steerable layers expand their weights to, kept as long as the weights stay the same."""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

Kernels = tuple[Tensor, ...]

_PERIOD: ContextVar[Hashable] = ContextVar("period", default=None)


@contextlib.contextmanager
def steady_weights(period: Hashable) -> Iterator[None]:
    """Say that weights stay as they are, so that layers on GPUs may keep what they expand; on CPUs they see it.

    A change of weights that counts (all but writing to `weight.data` in place) is seen inside of a period as well.

    Args:
        period: in contexts of equal periods, whatever came between, weights are the same.
    """
    token = _PERIOD.set(period)
    try:
        yield
    finally:
        _PERIOD.reset(token)


class Kept:
    """The kernels of a layer, expanded once for each value of the weights, however many calls and gradients follow.

    Values are compared, not version counters: `weight.data` and its like change weights and count nothing. On GPUs,
    where comparing would wait for the device, kernels are kept within a period of `steady_weights`. Copies and pickles
    of the layer leave the kernels behind.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None  # a copy, which the kernels were expanded from
        self._held: Tensor | None = None  # the original, so that no other one takes its address
        self._kernels: Kernels = ()
        self._sign: Hashable = None

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return type(self), ()

    def get(self, weight: nn.Parameter, expand: Callable[[Tensor], Kernels], form: Hashable = None) -> Kernels:
        """The kernels of a weight, through which gradients reach it.

        Args:
            weight: what they are made of.
            expand: makes them; a linear function.
            form: whatever else decides them, such as the memory format.
        """
        if torch.compiler.is_compiling() or not _is_ordinary(weight):
            return expand(weight)
        sign = form, *_signs(weight)
        if sign != self._sign or not self._is_of(weight):
            with torch.inference_mode(False), torch.enable_grad():  # ordinary tensors, to be used in any mode
                self._held = weight.detach()
                self._weight = self._held.clone().requires_grad_()
                self._kernels, self._sign = expand(self._weight), sign
        if torch.is_grad_enabled() and weight.requires_grad:
            return _Connect.apply(weight, self._weight, self._kernels)  # type: ignore[no-any-return, no-untyped-call]
        return tuple(kernel.detach() for kernel in self._kernels)

    def _is_of(self, weight: Tensor) -> bool:
        """Whether kernels are there, and are known to be those of a weight with the same signs."""
        if self._weight is None:
            return False
        return torch.equal(self._weight, weight) if weight.device.type == "cpu" else _PERIOD.get() is not None


def _is_ordinary(weight: Tensor) -> bool:
    """Whether autograd can go back to a weight by what was recorded of its copy."""
    transformed = torch._C._are_functorch_transforms_active()  # by torch.func, as torch.autograd.Function asks
    return type(weight) is nn.Parameter and not transformed and not weight.is_inference()


def _signs(weight: Tensor) -> tuple[Hashable, ...]:
    """What changes with a weight and is known without reading it."""
    signs = weight.device, weight.dtype
    period = None if weight.device.type == "cpu" else _PERIOD.get()
    return signs if period is None else (*signs, period, weight.data_ptr(), weight._version)


class _Connect(torch.autograd.Function):
    """Kernels that were expanded from a copy of a weight, as kernels of the weight itself."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor, kernels: Kernels) -> Kernels:
        ctx.copy, ctx.kernels = copy, kernels
        return tuple(kernel.detach() for kernel in kernels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = torch.autograd.grad(
            ctx.kernels, ctx.copy, gradients, retain_graph=True, create_graph=torch.is_grad_enabled()
        )
        return gradient, None, None
