"""A network in evaluation mode as the same function with fewer passes over memory, which is what attacks wait for."""

import itertools
import logging
from copy import deepcopy
from typing import Any, Final, TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from symmetry_robustness.attacks.base import loss_gradient

Layer = TypeVar("Layer", bound=nn.Module)

# Layers that do nothing in evaluation mode.
_IDLE: Final = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

# Images on which a fused network is compared. Largest difference of their logits, relative to the largest logit, that
# float32 rounding explains; and of the gradient of the median image, where rounding decides single ReLUs and maxima.
_COMPARED: Final = 16
_ROUNDING: Final = 1e-4
_KINKS: Final = 0.05

_log = logging.getLogger(__name__)


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


class ImageConv(nn.Module):
    """A convolution of images whose backward pass computes 2 × 2 pixels at once.

    CPU kernels compute sixteen channels at a time, of which the gradient of an image needs three; of four pixels
    together it needs twelve. Values and gradients are those of the convolution.

    Args:
        convolution: of at most four channels, with an odd kernel, stride 1 and the padding that keeps the size.
    """

    blocked: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        weight = convolution.weight.detach()
        outputs, inputs, size, _ = weight.shape
        kernels = weight.new_zeros(2, 2, inputs, outputs, size + 1, size + 1)
        for row, column in itertools.product(range(2), range(2)):
            kernels[row, column, :, :, row : row + size, column : column + size] = weight.flip(2, 3).transpose(0, 1)
        blocked = kernels.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        self.register_buffer("blocked", blocked, persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Conv2d:
        """The convolution itself: who copies a network may change its weights, or ask for their gradients."""
        return deepcopy(self.convolution, memo)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H, W)."""
        layer = self.convolution
        if images.shape[2] % 2 or images.shape[3] % 2 or _is_changed(layer):
            return cast(Tensor, layer(images))
        features = _ImageConvFunction.apply(images, layer.weight, layer.bias, self.blocked)  # type: ignore[no-untyped-call]
        return cast(Tensor, features)


class _ImageConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, blocked: Tensor) -> Tensor:
        ctx.save_for_backward(blocked)
        return torch.conv2d(images, weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (blocked,) = ctx.saved_tensors
        blocks = torch.conv2d(gradient, blocked, stride=2, padding=(blocked.shape[-1] - 2) // 2)
        # One copy, channels last, in a quarter of the time of torch's pixel_shuffle.
        batch, channels, height, width = blocks.shape
        pixels = blocks.view(batch, 2, 2, channels // 4, height, width).permute(0, 4, 1, 5, 2, 3)
        return pixels.reshape(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2), None, None, None


class SmallMapConv(nn.Module):
    """A convolution that is one matrix product on maps so small that each output pixel sees all of them.

    Convolution kernels multiply padding there: on 1 × 1 pixels eight of nine products of a 3 × 3 kernel are zero, on
    2 × 2 pixels twenty of thirty-six. Values and gradients are those of the convolution; weights take no gradient.

    Args:
        convolution: with a square odd kernel, stride 1 and the padding that keeps the size.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self._matrices: dict[int, tuple[Tensor, Tensor | None]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Conv2d:
        """The convolution itself, as a copy of `ImageConv`."""
        return deepcopy(self.convolution, memo)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_channels, H, W)."""
        layer, (height, width) = self.convolution, features.shape[-2:]
        if height != width or 2 * height > layer.kernel_size[0] + 1 or _is_changed(layer):
            return cast(Tensor, layer(features))
        if height not in self._matrices:
            self._matrices[height] = self._matrix(height)
        result = nn.functional.linear(features.flatten(1), *self._matrices[height])
        return result.view(len(features), layer.out_channels, height, width)

    @torch.inference_mode(mode=False)  # gradients may be asked for later
    @torch.no_grad()
    def _matrix(self, size: int) -> tuple[Tensor, Tensor | None]:
        """Weight (out_channels * size², C * size²) and bias of the product: what the layer makes of unit vectors."""
        layer, pixels = self.convolution, size * size
        units = torch.eye(layer.in_channels * pixels, dtype=layer.weight.dtype, device=layer.weight.device)
        with torch.autocast(layer.weight.device.type, enabled=False):  # or the product would stay rounded
            weight = layer._conv_forward(units.view(-1, layer.in_channels, size, size), layer.weight, None)
        bias = None if layer.bias is None else layer.bias.repeat_interleave(pixels)
        return weight.flatten(1).T.contiguous(), bias


class HalvingMaxPool(nn.Module):
    """A maximum over 2 × 2 pixels without torch's own kernel, which is slow on a CPU where no gradient is asked for.

    It takes 0.1 to 0.4 of that kernel's time where rows are contiguous, 0.6 to 1.2 of it channels last (AMD Zen 3).

    Args:
        pool: of kernel and stride 2, without padding.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H // 2, W // 2)."""
        if features.requires_grad or features.is_cuda or features.shape[-2] % 2 or features.shape[-1] % 2:
            return cast(Tensor, self.pool(features))
        rows = torch.maximum(features[..., ::2, :], features[..., 1::2, :])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


def fuse(network: nn.Module, images: Tensor) -> nn.Module:
    """The network with batch norms folded into the convolutions before them and pooled before it is rectified.

    Convolutions on maps of 1 × 1 or 2 × 2 pixels become matrix products. On a CPU convolutions of images get a faster
    backward pass as well, and maxima over 2 × 2 pixels a faster forward pass. Weights of such convolutions take no
    gradient, but in deep copies, which have the convolutions back. Only what stands side by side in a plain
    `nn.Sequential` is rewritten, so any network may be given. Nothing of it is changed; layers that stay are shared.

    Args:
        network: images to logits (B, K), in evaluation mode.
        images: float32 (B, C, H, W), on some of which the result is held against the network.

    Returns:
        The fused network, or the network itself where that cannot be, or where logits or input gradients differ by more
        than rounding.
    """
    try:
        fused = _fuse(network)
        same = fused is not network and len(images) > 0 and _agree(network, fused, images[:_COMPARED])
    except Exception as error:  # whatever a network does that relies on its own layers
        _log.debug("attacked as it is, because fusing failed: %s", error)
        return network
    return fused if same else network


def _agree(network: nn.Module, fused: nn.Module, images: Tensor) -> bool:
    """Whether two networks have the same logits, and gradients but for what rounding decides at kinks."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    forms = [loss_gradient(form, images, labels) for form in (network, fused)]
    logits, gradients = zip(*forms, strict=True)
    size = max(float(logits[0].abs().nan_to_num(0.0).max()), 1e-3)
    if not torch.allclose(logits[1], logits[0], rtol=0.0, atol=_ROUNDING * size, equal_nan=True):
        return False
    expected, found = (gradient.flatten(1).nan_to_num(0.0) for gradient in gradients)
    apart = (found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(torch.finfo(expected.dtype).tiny)
    return bool(apart.median() <= _KINKS)


def _fuse(module: nn.Module) -> nn.Module:
    if isinstance(module, ImageConv | SmallMapConv):  # fused before
        return module
    if _is_sequence(module):
        layers = _rewrite(_flatten(module))
        if layers == list(module.children()):
            return module
        sequence = nn.Sequential(*layers)
        sequence.training = module.training  # of the container alone: the layers are shared
        return sequence
    if _is_fixed(module):
        return Affine(module)
    if _is_plain(module, nn.Conv2d):  # a child of some other module, which may read the layer's weights and settings
        return module if isinstance(fused := _fuse_conv(module), SmallMapConv) else fused
    children = {name: _fuse(child) for name, child in module.named_children()}
    if all(child is module._modules[name] for name, child in children.items()):
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
        elif not any(_is_plain(child, kind) and not child.training for kind in _IDLE):
            layers.append(child if isinstance(child, nn.BatchNorm2d | nn.Conv2d) else _fuse(child))
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
    result = [HalvingMaxPool(layer) if _is_halving(layer) else layer for layer in result]
    return [_fuse_conv(layer) if _is_plain(layer, nn.Conv2d) else layer for layer in result]


def _fuse_conv(layer: nn.Conv2d) -> nn.Module:
    """The convolution itself, or what stands for it: on a CPU, where few channels come in, or on small maps."""
    height, width = layer.kernel_size
    if height != width or height % 2 == 0 or layer.padding not in ("same", (height // 2, height // 2)):
        return layer
    if (layer.stride, layer.dilation, layer.groups, layer.padding_mode) != ((1, 1), (1, 1), 1, "zeros"):
        return layer
    if layer.in_channels <= 4 and not layer.weight.is_cuda:
        return ImageConv(layer)
    return SmallMapConv(layer) if height > 1 else layer


def _is_plain(module: nn.Module | None, kind: type[Layer]) -> TypeGuard[Layer]:
    """Whether a module computes what its class says: no subclass, parametrisation or hook."""
    return type(module) is kind and not _is_changed(module)


def _is_changed(module: nn.Module) -> bool:
    """Whether hooks, or a method put in place on the instance, do more than the class says."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return (
        isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and not _is_changed(module)
    )


def _is_fixed(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a batch norm only scales and shifts."""
    return _is_plain(module, nn.BatchNorm2d) and not module.training and module.running_mean is not None


def _is_halving(module: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    """Whether `HalvingMaxPool` stands for a maximum pool."""
    if not _is_plain(module, nn.MaxPool2d) or module.ceil_mode or module.return_indices:
        return False
    settings = zip((module.kernel_size, module.stride, module.padding, module.dilation), (2, 2, 0, 1), strict=True)
    return all(value in (usual, (usual, usual)) for value, usual in settings)
