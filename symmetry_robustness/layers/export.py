"""Networks in plain layers, as they are attacked, measured and saved for others."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def export(network: nn.Module) -> nn.Module:
    """Copy a network into plain convolutions and batch norms, in evaluation mode and without parameter gradients.

    Every module with a method `export` is replaced by its return value. The copy shares nothing with the original;
    neither the original nor any random state is changed.

    Examples:
        >>> export(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))).training
        False
    """
    with _DetachedCopies():
        copied = copy.deepcopy(network)
    return _flatten(copied).eval().requires_grad_(False)


class _DetachedCopies(TorchFunctionMode):
    """Lets computed tensors be copied, such as the weights of `weight_norm` and activations that a layer stores.

    Torch refuses, because a copy cannot belong to the graph of the original; here it need not.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def _flatten(module: nn.Module) -> nn.Module:
    """Replace what can export itself, depth first, in place."""
    if callable(flat := getattr(module, "export", None)):
        exported: nn.Module = flat()
        return exported
    for name, child in module.named_children():
        setattr(module, name, _flatten(child))
    return module
