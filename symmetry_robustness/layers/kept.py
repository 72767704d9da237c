"""What steerable layers expand their weights to, kept as long as the weights stay the same."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Kernels = TypeVar("Kernels")


class Kept(Generic[Kernels]):
    """The kernels of a layer; without gradients they are kept until the weights have other values.

    Values are compared, not version counters: `weight.data` and its like change weights and count nothing. On GPUs,
    where comparing would wait for the device and expanding takes microseconds, nothing is kept. Copies and pickles of
    the layer leave the kernels behind.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._form: Hashable = None
        self._kernels: Kernels | None = None

    def __reduce__(self) -> tuple[type["Kept[Kernels]"], tuple[()]]:
        return type(self), ()

    def __bool__(self) -> bool:
        """Whether anything is kept."""
        return self._kernels is not None

    def get(self, weight: nn.Parameter, expand: Callable[[], Kernels], form: Hashable = None) -> Kernels:
        """The kernels of a weight.

        Args:
            weight: what they are made of.
            expand: makes them.
            form: whatever else decides them, such as the memory format.
        """
        if torch.compiler.is_compiling():
            return expand()
        if torch.is_grad_enabled() and weight.requires_grad:
            self._kernels = None  # the weights are about to change
            return expand()
        # Under torch.func the weight is no parameter, and derivatives of another kind are taken.
        if type(weight) is not nn.Parameter or weight.device.type != "cpu":
            return expand()
        known = self._weight
        if (
            self._kernels is None
            or known is None
            or (self._form, known.dtype) != (form, weight.dtype)
            or not torch.equal(known, weight)
        ):
            with torch.inference_mode(False), torch.no_grad():  # ordinary tensors, to be used in any mode
                self._kernels, self._weight, self._form = expand(), weight.clone(), form
        return self._kernels
