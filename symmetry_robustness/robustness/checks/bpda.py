"""A surrogate of a network that computes nearly the same and hides no gradients."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from symmetry_robustness.attacks.validation import forward

# Each as a function and as a method; what works in place changes its input and is left alone.
_PIECEWISE: Final = ("round", "floor", "ceil", "trunc", "sign", "clamp", "clip", "clamp_min", "clamp_max")
_CURVES: Final = ("sigmoid", "tanh", "softmax")


def _both(names: Sequence[str]) -> list[Callable[..., Tensor]]:
    return [getattr(place, name) for name in names for place in (torch, Tensor)]


_FLAT: Final = frozenset([*_both(_PIECEWISE), functional.hardtanh, functional.relu6])
_CUTTING: Final = frozenset([*_both(["detach"]), Tensor.data.__get__])  # type: ignore[attr-defined]
_SATURATING: Final = frozenset([*_both(_CURVES), *(getattr(functional, name) for name in _CURVES)])


@final
class BPDASurrogate(nn.Module):
    """The network with gradients that pass where its own would be cut, flat or lost to saturation.

    `detach` and `no_grad` cut nothing, rounding and clamping pass the gradient straight through, and the inputs of
    softmax, sigmoid and tanh, like the logits, are scaled down to where these are not saturated. So the network is
    another one, from which attacks may transfer. Operations outside of torch's functions (autograd functions
    of one's own, a detour through numpy) and those in place stay as they are.
    Source: arXiv 1802.00420, sec. 4.1 (backward pass differentiable approximation).

    Args:
        network: images (B, C, H, W) to logits (B, K); used as it is, not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.eval()
        self._network = (network,)  # in a tuple: its mode is its own affair

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K), the largest of each image scaled to 1 in size."""
        with _StraightThrough():
            logits = forward(self._network[0], images).nan_to_num()
        return _scaled_down(logits, dim=1, most=0.0)


class _StraightThrough(TorchFunctionMode):
    """Replaces what hides gradients while it is active."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CUTTING:
            return args[0]
        if func is torch._C._set_grad_enabled:
            return None
        if func in _FLAT and args[0].is_floating_point():
            return func(*args, **kwargs).detach() + (args[0] - args[0].detach())
        if func in _SATURATING:
            return func(_scaled_down(args[0], dim=-1, most=1.0), *args[1:], **kwargs)
        return func(*args, **kwargs)


def _scaled_down(values: Tensor, dim: int, most: float) -> Tensor:
    """Divide by the largest size along `dim`, unless that is below `most`; the divisor counts as constant."""
    largest = values.detach().abs().amax(dim, keepdim=True)
    return values / largest.clamp_min(max(most, 1e-30))
