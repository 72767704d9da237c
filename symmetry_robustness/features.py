"""Outputs of layers inside of a network, read by forward hooks."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from torch import Tensor, nn

from symmetry_robustness.errors import UserError

# Behind the name of a layer: what goes into it, not what comes out.
INPUT: Final = ":input"


def read_features(network: nn.Module, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of a forward pass, and features by the names of layers, in their order; gradients flow through both.

    A layer that is called several times gives its last output. Layers that work in place change features before them.

    Args:
        network: images to logits.
        images: (B, C, H, W).
        layers: names as in `network.named_modules()`; with ":input" behind, the layer's input.

    Raises:
        UserError: a layer does not exist, is not called, or passes something else than a tensor; or the network is
            compiled, so that its layers are not called one by one.

    Examples:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _, features = read_features(network, torch.rand(5, 3, 2, 2), default_layers(network))
        >>> {name: tuple(feature.shape) for name, feature in features.items()}
        {'1': (5, 4), '3:input': (5, 4)}
    """
    if any(module._compiled_call_impl is not None or hasattr(module, "_orig_mod") for module in network.modules()):
        raise UserError("layers of a compiled network are not called one by one; set compute.compile=false")
    found: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for name in layers:
            stack.enter_context(_recorded(network, name, found))
        logits: Tensor = network(images)
    missing = [name for name in layers if name not in found]
    if missing:
        raise UserError(f"layers={missing} gave no tensor in the forward pass; name layers that it calls")
    return logits, {name: found[name] for name in layers}


def default_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of a network's blocks, and of the feature that its classifier gets.

    A layer has weights if it owns a matrix or a filter. The classifier is the last such layer, in the order of
    registration, of the network's part `head`, or of all where there is no such part; layers after it do not count. A
    block is a layer with weights, or a module that holds some: a sequence counts as a block where it holds a single
    one, as convolution, batch norm and ReLU do, and is taken apart where it holds more. So are modules that hold the
    classifier.

    Raises:
        UserError: no layer has weights.
    """
    feature = pooled_feature(network)
    last = feature.removesuffix(INPUT)
    names = _with_weights(network)
    before = names[: names.index(last)]
    blocks = _blocks(network, "", network.get_submodule(last))
    return (*(block for block in blocks if any(f"{name}.".startswith(f"{block}.") for name in before)), feature)


def pooled_feature(network: nn.Module) -> str:
    """Name of the feature that a network's classifier gets, see `default_layers`.

    Raises:
        UserError: no layer has weights.
    """
    names = _with_weights(network)
    if not names:
        raise UserError(f"{type(network).__name__} has no layer with weights; name the layers to read")
    return ([name for name in names if f"{name}.".startswith("head.")] or names)[-1] + INPUT


def _with_weights(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if _has_weights(module)]


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


def _blocks(module: nn.Module, name: str, classifier: nn.Module) -> list[str]:
    layers = [layer for layer in module.modules() if _has_weights(layer)]
    if not layers or module is classifier:
        return []
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)  # which nobody calls
    if classifier in layers or is_list or (isinstance(module, nn.Sequential) and len(layers) > 1):
        parts = [_blocks(child, f"{name}.{key}" if name else key, classifier) for key, child in module.named_children()]
        return [part for found in parts for part in found]
    return [name]


@contextlib.contextmanager
def _recorded(network: nn.Module, name: str, found: dict[str, Tensor]) -> Iterator[None]:
    """Write what a layer passes into `found`, within the context."""
    if any(
        getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod") for module in network.modules()
    ):
        raise UserError("layers of a compiled network are not called one by one; set compute.compile=false")
    try:
        layer = network.get_submodule(name.removesuffix(INPUT))
    except AttributeError:
        usual = ", ".join(default_layers(network))
        raise UserError(f"layers names {name}, which the network does not have; by default: {usual}") from None

    def record(value: Any) -> None:
        if isinstance(value, Tensor):
            found[name] = value

    hook: Callable[..., None]
    if name.endswith(INPUT):
        hook = lambda layer, inputs: record(inputs[0] if inputs else None)  # noqa: E731
        handle = layer.register_forward_pre_hook(hook)
    else:
        hook = lambda layer, inputs, output: record(output)  # noqa: E731
        handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
