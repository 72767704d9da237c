"""A network in evaluation mode as the same function with fewer passes over memory, which is what attacks wait for."""

from typing import Final, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Layer = TypeVar("Layer", bound=nn.Module)

# Largest difference of logits, relative to the largest logit, that float32 rounding explains.
_ROUNDING: Final = 1e-4


class Affine(nn.Module):
    """A batch norm in evaluation mode as one multiplication and one addition.

    The backward pass of torch's own kernel takes ten times as long as that of a product.

    Args:
        norm: in evaluation mode, with running statistics.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None  # `_is_fixed` has seen to it
        assert variance is not None
        scale = (variance.double() + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.detach().double())
        shift = (0.0 if norm.bias is None else norm.bias.detach().double()) - mean.double() * scale
        self.register_buffer("scale", scale.to(mean.dtype).view(-1, 1, 1))
        self.register_buffer("shift", shift.to(mean.dtype).view(-1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return torch.addcmul(self.shift, features, self.scale)


def fuse(network: nn.Module, images: Tensor) -> nn.Module:
    """The network with batch norms folded into the convolutions before them and pooled before it is rectified.

    Only what stands side by side in a plain `nn.Sequential` is rewritten, so any network may be given. Nothing of it
    is changed; layers that stay are shared.

    Args:
        network: images to logits (B, K), in evaluation mode.
        images: float32 (B, C, H, W), on which the result is held against the network.

    Returns:
        The fused network, or the network itself where their logits differ by more than rounding.
    """
    fused = _fuse(network)
    if fused is network or not len(images):
        return network
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        expected, found = network(images), fused(images)
    size = float(expected.abs().nan_to_num(0.0).max()) if expected.numel() else 0.0
    agree = torch.allclose(found, expected, rtol=0.0, atol=_ROUNDING * max(size, 1e-3), equal_nan=True)
    return fused if agree else network


def _fuse(module: nn.Module) -> nn.Module:
    if _is_sequence(module):
        layers = _rewrite(_flatten(module))
        if layers == list(module.children()):
            return module
        sequence = nn.Sequential(*layers)
        sequence.training = module.training  # of the container alone: the layers are shared
        return sequence
    if _is_fixed(module):
        return Affine(module)
    children = {name: _fuse(child) for name, child in module.named_children()}
    if all(child is module.get_submodule(name) for name, child in children.items()):
        return module
    # A module of the same class and state with other children: nothing is copied, the original keeps its own.
    copy = module.__new__(type(module))
    copy.__dict__ = module.__dict__ | {"_modules": module._modules | children}
    return copy


def _flatten(sequence: nn.Sequential) -> list[nn.Module]:
    """Layers of nested sequences one after another, without those that do nothing in evaluation mode."""
    layers: list[nn.Module] = []
    for child in sequence.children():
        if _is_sequence(child):
            layers += _flatten(child)
        elif not (isinstance(child, nn.Identity | nn.modules.dropout._DropoutNd) and not child.training):
            layers.append(child if _is_fixed(child) else _fuse(child))
    return layers


def _rewrite(layers: list[nn.Module]) -> list[nn.Module]:
    result: list[nn.Module] = []
    for layer in layers:
        last = result[-1] if result else None
        if _is_fixed(layer) and _is_plain(last, nn.Conv2d):
            result[-1] = fuse_conv_bn_eval(last, layer)
        elif _is_fixed(layer):
            result.append(Affine(layer))
        elif _is_plain(layer, nn.MaxPool2d) and _is_plain(last, nn.ReLU):
            result[-1:] = [layer, last]  # the same values, and a quarter of them to rectify
        else:
            result.append(layer)
    return result


def _is_plain(module: nn.Module | None, kind: type[Layer]) -> TypeGuard[Layer]:
    """Whether a module computes what its class says: no subclass, parametrisation or hook."""
    return type(module) is kind and not (module._forward_hooks or module._forward_pre_hooks)


def _is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    hooks = module._forward_hooks or module._forward_pre_hooks
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and not hooks


def _is_fixed(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a batch norm only scales and shifts."""
    return _is_plain(module, nn.BatchNorm2d) and not module.training and module.running_mean is not None
