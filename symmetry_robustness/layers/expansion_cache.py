"""Caches the dense kernels that steerable layers expand from their coefficients, until the coefficients change."""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

Kernels = tuple[Tensor, ...]

_TOKEN: ContextVar[Hashable] = ContextVar("token", default=None)


@contextlib.contextmanager
def frozen_weights(token: Hashable) -> Iterator[None]:
    """Declare that weights do not change within this context, so that layers on GPUs may reuse expanded kernels.

    Layers on CPUs compare values and need no declaration. A change that raises the weight's version counter (all but
    writing to `weight.data` in place) is noticed within the context, too.

    Args:
        token: contexts with equal tokens declare that the weights are the same in all of them.
    """
    before = _TOKEN.set(token)
    try:
        yield
    finally:
        _TOKEN.reset(before)


class ExpandedKernelCache:
    """The kernels of a layer, expanded once for each value of the weights, however many calls and gradients follow.

    Values are compared, not version counters, which writing to `weight.data` leaves alone. On GPUs, where a comparison
    would wait for the device, kernels are reused within `frozen_weights` only. Copies and pickles of the layer do not
    contain the cache.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None  # a copy, which the kernels were expanded from
        self._held: Tensor | None = None  # the original, so that no other tensor takes its address
        self._kernels: Kernels = ()
        self._key: Hashable = None

    def __reduce__(self) -> tuple[type["ExpandedKernelCache"], tuple[()]]:
        return type(self), ()

    def get(self, weight: nn.Parameter, expand: Callable[[Tensor], Kernels], form: Hashable = None) -> Kernels:
        """The kernels of a weight, through which gradients reach it.

        Args:
            weight: the coefficients.
            expand: maps them to kernels; a linear function.
            form: any other setting of the kernels, such as their memory format.
        """
        if torch.compiler.is_compiling() or not _is_ordinary(weight):
            return expand(weight)
        key = form, *_fingerprint(weight)
        if key != self._key or not self._is_of(weight):
            with torch.inference_mode(False), torch.enable_grad():  # ordinary tensors, to be used in any mode
                self._held = weight.detach()
                self._weight = self._held.clone().requires_grad_()
                self._kernels, self._key = expand(self._weight), key
        if torch.is_grad_enabled() and weight.requires_grad:
            return _AttachToWeight.apply(weight, self._weight, self._kernels)  # type: ignore[no-any-return, no-untyped-call]
        return tuple(kernel.detach() for kernel in self._kernels)

    def _is_of(self, weight: Tensor) -> bool:
        """Whether the cached kernels are those of a weight that has the same fingerprint."""
        if self._weight is None:
            return False
        return torch.equal(self._weight, weight) if weight.device.type == "cpu" else _TOKEN.get() is not None


def _is_ordinary(weight: Tensor) -> bool:
    """Whether gradients of a copy can be passed on to the weight."""
    transformed = torch._C._are_functorch_transforms_active()  # by torch.func, as torch.autograd.Function asks
    return type(weight) is nn.Parameter and not transformed and not weight.is_inference()


def _fingerprint(weight: Tensor) -> tuple[Hashable, ...]:
    """Properties of a weight that are known without reading its values."""
    properties = weight.device, weight.dtype
    token = None if weight.device.type == "cpu" else _TOKEN.get()
    return properties if token is None else (*properties, token, weight.data_ptr(), weight._version)


class _AttachToWeight(torch.autograd.Function):
    """Attaches kernels that were expanded from a copy of a weight to the graph of the weight itself."""

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
