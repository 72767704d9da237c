"""Weights of a network that are others for a while."""

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn


@contextlib.contextmanager
def replaced(network: nn.Module, values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Let a network compute with other tensors in place of some parameters, which themselves are not touched.

    Graphs that are built within remain valid afterwards, and gradients flow through the tensors to whatever they were
    computed from.

    Args:
        network: whose parameters they are.
        values: a tensor of the same shape for each parameter to replace.
    """
    places = [
        (module, name, parameter)
        for module in network.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter in values
    ]
    for module, name, parameter in places:
        module._parameters[name] = values[parameter]  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter
