"""Convolutions at several scales: the paper's branches, and layers that commute with scaling the image.

A field of a scale group is a feature map that scaling acts on: it has one channel per scale (and per quarter turn, if
the group has them), and what the channel of one scale is for an image, the channel of the scale below is for the image
shrunk by one step. Channels are ordered as in `groups.py`, by component: first by scale, then by quarter turn, then by
field.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.convolution import conv_block, plain_convolution
from symmetry_robustness.layers.expansion_cache import ExpandedKernelCache, Kernels
from symmetry_robustness.layers.scale_group import ScaleGroup, hermite_basis
from symmetry_robustness.layers.validation import require_positive
from symmetry_robustness.resampling import downsample


class MultiScaleConv(nn.Module):
    """One convolution block per scale, each with its own weights: many scales are seen, none is exchangeable.

    Each block sees the image resized by its scale (bilinear) and its features are resized back. Because the weights
    are not shared over the scales, resizing the image does not permute the output: the layer is not equivariant.

    Args:
        channels: of each scale; the output has channels · len(scales).
        scales: factors by which the image is resized.

    Raises:
        UserError: a scale is not positive, or there is none.

    Source: arXiv 2510.16171, scale branches of the parallel networks.

    Examples:
        >>> MultiScaleConv(4, scales=[0.5, 1, 2])(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 12, 16, 16])
    """

    def __init__(self, channels: int, scales: Sequence[float] = (0.5, 1, 2), in_channels: int = 3) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.scales = tuple(scales)
        if not self.scales or not all(isinstance(scale, int | float) and scale > 0 for scale in self.scales):
            raise UserError(f"scales must be positive numbers, got {list(self.scales)}; give some, as in [0.5, 1, 2]")
        self.blocks = nn.ModuleList(conv_block(in_channels, channels) for _ in self.scales)
        self.out_channels = channels * len(self.scales)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        size = images.shape[-2:]
        features = []
        for scale, block in zip(self.scales, self.blocks, strict=True):
            if scale == 1:
                features.append(block(images))
            else:
                resized = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
                features.append(F.interpolate(block(resized), size=size, mode="bilinear", align_corners=False))
        return torch.cat(features, dim=1)


class ScaleLifting(nn.Module):
    """Convolution of an image with every filter at every scale (and turn): image channels to fields of a scale group.

    Equivariance error ‖L Φ(f) - Φ(L f)‖² / ‖L Φ(f)‖² for shrinking L by one step, inside the border, for the scales
    that both sides have: 0.003 or less on images with the spectrum of natural ones and on the embedded data set. A
    plain convolution with filters of the same size has 0.2 to 0.6. Turning by quarters is exact.

    Args:
        group: scales and turns.
        in_channels: of the image.
        out_fields: number of fields; the output has group.order · out_fields channels.
        bias: whether to add one learned number per field.

    Raises:
        UserError: no positive number of channels or fields.

    Source: arXiv 1910.11093, the scale convolution of functions on the plane.

    Examples:
        >>> group = ScaleGroup(3)  # three scales, a factor of √2 apart
        >>> ScaleLifting(group, in_channels=3, out_fields=2)(torch.rand(1, 3, 16, 16)).shape  # 2 fields of 3 channels
        torch.Size([1, 6, 16, 16])
    """

    basis: Tensor

    def __init__(self, group: ScaleGroup, in_channels: int, out_fields: int, bias: bool = True) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, fields=out_fields)
        self.permute_fields = partial(permute_fields, group=group)
        self._cache = ExpandedKernelCache()
        self.weight = _coefficients(out_fields, in_channels, group.functions)
        self.bias = nn.Parameter(torch.zeros(out_fields)) if bias else None
        largest = group.radii[-1]
        filters = [
            F.pad(torch.tensor(functions, dtype=torch.float32), [largest - radius] * 4)
            for functions, radius in zip(hermite_basis(group), group.radii, strict=True)
        ]
        # Not persistent: it follows from the settings, so a checkpoint holds learned numbers only.
        self.register_buffer("basis", torch.stack(filters, dim=1).flatten(1), persistent=False)
        self.filter_shape = (group.order, 2 * largest + 1, 2 * largest + 1)
        self.out_channels = out_fields * group.order

    def expand(self) -> tuple[Tensor, Tensor | None]:
        """Kernel (out_channels, in_channels, k, k) and bias (out_channels,) of the plain convolution this one is."""
        return self.expand_weight(self.weight)[0], self._expand_bias()

    def expand_weight(self, weight: Tensor) -> Kernels:
        """Kernel of a weight with the shape of the layer's own."""
        with torch.autocast(weight.device.type, enabled=False):  # as exact as the kernel of the exported layer
            filters = (weight @ self.basis).view(*weight.shape[:2], *self.filter_shape)  # (out, in, order, k, k)
        return (filters.movedim(2, 0).flatten(0, 1),)

    def _expand_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.repeat(self.filter_shape[0])

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        (kernel,) = self._cache.get(self.weight, self.expand_weight)
        return F.conv2d(images, kernel, self._expand_bias(), padding=self.filter_shape[-1] // 2)

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return the plain convolution with the kernel of this moment; it still says `permute_fields`."""
        convolution = plain_convolution(*self.expand())
        convolution.permute_fields = self.permute_fields  # type: ignore[assignment]  # a plain function
        return convolution


class ScaleConv(nn.Module):
    """Convolution that commutes with shrinking the image by its scales' step, up to the pixel grid and the last scale.

    The output at a scale sees the input at this scale and at the `scale_extent` - 1 scales above, through filters of
    its own scale; beyond the last scale there are zeros. With turns it commutes with them exactly. Equivariance error,
    measured as for `ScaleLifting`: 0.006 or less for both in a row, 0.04 or less for three layers with ReLU, which
    makes detail too fine for the grid.

    It is computed as one convolution per scale, each with filters of that scale's size: as one dense kernel, mostly
    zeros, it would cost three to four times as much.

    Args:
        group: scales and turns.
        in_fields: number of input fields.
        out_fields: number of output fields.
        scale_extent: how many neighbouring scales a filter spans. Above 1, the last `scale_extent` - 1 scales of the
            output meet the zeros, which no shrunk image holds, and do not commute.
        bias: whether to add one learned number per output field.

    Raises:
        UserError: no positive number of fields, or an scale_extent beyond the number of scales.

    Source: arXiv 1910.11093, the scale convolution of functions on scales × plane.
    """

    basis: Tensor

    def __init__(
        self, group: ScaleGroup, in_fields: int, out_fields: int, scale_extent: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        require_positive(in_fields=in_fields, fields=out_fields, scale_extent=scale_extent)
        if scale_extent > group.scales:
            raise UserError(f"scale_extent must be at most {group.scales}, the number of scales, got {scale_extent}")
        self.group, self.scale_extent = group, scale_extent
        self.permute_fields = partial(permute_fields, group=group)
        self._cache = ExpandedKernelCache()
        self.weight = _coefficients(out_fields, in_fields, group.rotations * scale_extent * group.functions)
        self.bias = nn.Parameter(torch.zeros(out_fields)) if bias else None
        filters = [torch.tensor(functions, dtype=torch.float32).flatten(1) for functions in hermite_basis(group)]
        self.register_buffer("basis", torch.cat(filters, dim=1), persistent=False)
        self.out_channels = out_fields * group.order

    def expand(self) -> tuple[Kernels, Tensor | None]:
        """Kernels of the plain convolutions that this one is, one per output scale, and the bias of each of them.

        Returns:
            For scale s a kernel (rotations · out_fields, spanned · rotations · in_fields, k, k), where `spanned` is the
            number of scales it sees; and (rotations · out_fields,).
        """
        return self.expand_weight(self.weight), self._expand_bias()

    def expand_weight(self, weight: Tensor) -> Kernels:
        """Kernels of a weight with the shape of the layer's own."""
        rotations, scales = self.group.rotations, self.group.scales
        lead = (*weight.shape[:2], rotations, self.scale_extent)
        sizes = [2 * radius + 1 for radius in self.group.radii]
        with torch.autocast(weight.device.type, enabled=False):
            expanded = weight.view(*lead, -1) @ self.basis
        filters = torch.split(expanded, [rotations * size**2 for size in sizes], dim=-1)
        kernels = []
        for scale, (sampled, size) in enumerate(zip(filters, sizes, strict=True)):
            turned = sampled.view(*lead, rotations, size, size)[:, :, :, : scales - scale].unbind(dim=4)
            # Turning a filter also moves its channels on by as many turns.
            kernel = torch.stack([channels.roll(turn, dims=2) for turn, channels in enumerate(turned)])
            kernels.append(kernel.permute(0, 1, 4, 3, 2, 5, 6).flatten(2, 4).flatten(0, 1))
        return tuple(kernels)

    def _expand_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.repeat(self.group.rotations)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, order · in_fields, H, W) to (B, out_channels, H, W), in the memory format it comes in."""
        kernels = self._cache.get(self.weight, self.expand_weight)
        return _scale_by_scale(features, kernels, self._expand_bias(), self.scale_extent)

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return the plain convolutions with the kernels of this moment; they still say `permute_fields`."""
        convolution = PerScaleConv(*self.expand(), self.scale_extent)
        convolution.permute_fields = self.permute_fields  # type: ignore[assignment]  # a plain function
        return convolution.eval()


class PerScaleConv(nn.Module):
    """Export of a `ScaleConv`: one plain convolution per scale, its kernel fixed.

    Args:
        kernels: of the scales, as `ScaleConv.expand` gives them.
        bias: of each of them.
        scale_extent: see `ScaleConv`.
    """

    def __init__(self, kernels: Sequence[Tensor], bias: Tensor | None, scale_extent: int) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(nn.Parameter(kernel, requires_grad=False) for kernel in kernels)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.scale_extent = scale_extent

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, order · in_fields, H, W) to (B, order · out_fields, H, W), in the memory format it comes in."""
        return _scale_by_scale(features, [*self.kernels], self.bias, self.scale_extent)


def downsample_fields(features: Tensor, group: ScaleGroup) -> Tensor:
    """Act on fields as shrinking the image by one step of the group does.

    Args:
        features: (B, order · fields, H, W), the features of an image.
        group: that the fields belong to.

    Returns:
        (B, order · fields, H // step, W // step), the features of the shrunk image. The last scale is zero: it would
        show what the larger image holds beyond the last scale.
    """
    small = downsample(features, group.step)
    per_scale = small.shape[1] // group.scales
    return F.pad(small[:, per_scale:], (0, 0, 0, 0, 0, per_scale))


def permute_fields(features: Tensor, angle: float, scale: float, *, group: ScaleGroup) -> Tensor | None:
    """Arrange the channels of features that were moved in the plane as turning and scaling the image arranges them.

    Args:
        features: (B, order · fields, H, W).
        angle: degrees, counter-clockwise.
        scale: magnification of the image.
        group: that the fields belong to.

    Returns:
        The same shape, NaN at scales that would show what lies beyond the group's; None for what is not in the group.
    """
    turns, steps = angle / 90, -math.log(scale) / math.log(group.step)
    if abs(turns - round(turns)) > 1e-6 or abs(steps - round(steps)) > 1e-6:
        return None
    if round(turns) % 4 and group.rotations == 1:
        return None
    shape = (len(features), group.scales, group.rotations, -1, *features.shape[2:])
    fields = features.reshape(shape).roll(round(turns), dims=2)
    moved = torch.full_like(fields, torch.nan)
    for given in range(group.scales):
        if 0 <= given - round(steps) < group.scales:
            moved[:, given - round(steps)] = fields[:, given]
    return moved.flatten(1, 3)


def _coefficients(out_fields: int, in_fields: int, numbers: int) -> nn.Parameter:
    """Random weights (out_fields, in_fields, numbers) that keep the variance of white noise.

    Three dimensions, because a network with a tensor of five dimensions cannot be moved to channels-last.
    """
    return nn.Parameter(torch.randn(out_fields, in_fields, numbers) / (in_fields * numbers) ** 0.5)


def _scale_by_scale(features: Tensor, kernels: Sequence[Tensor], bias: Tensor | None, scale_extent: int) -> Tensor:
    """Convolve the scales that each output scale spans with its kernel, and put the results in order."""
    per_scale, reach = features.shape[1] // len(kernels), max(features.shape[-2:]) - 1
    outputs = []
    for scale, kernel in enumerate(kernels):
        spanned = features[:, scale * per_scale : (scale + scale_extent) * per_scale]
        radius = min(kernel.shape[-1] // 2, reach)  # beyond it there is only padding
        cut = kernel.shape[-1] // 2 - radius
        inner = kernel[..., cut : kernel.shape[-2] - cut, cut : kernel.shape[-1] - cut]
        outputs.append(F.conv2d(spanned, inner, bias, padding=radius))
    return torch.cat(outputs, dim=1)
