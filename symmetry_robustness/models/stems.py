"""Stems: the first layers of a network, where the designs of the paper differ.

A stem maps normalised images (B, 3, H, W) to features (B, out_channels, H, W) and states `out_channels`. Stems nest.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.convolution import conv_block
from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.layers.groups import Group
from symmetry_robustness.layers.pooling import GroupPool
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.layers.scale import ScaleLifting
from symmetry_robustness.layers.scale_group import ScaleGroup
from symmetry_robustness.layers.validation import require_positive


def channels_of(stem: nn.Module) -> int:
    """Number of output channels of a stem, or of a trunk that is no list.

    Raises:
        UserError: the module does not state it.
    """
    channels = getattr(stem, "out_channels", None)
    if not isinstance(channels, int):
        raise UserError(f"{type(stem).__name__} has no number of channels; set self.out_channels in its __init__")
    return channels


class ConvStem(nn.Sequential):
    """One plain convolution, batch norm, ReLU.

    Examples:
        >>> ConvStem(16)(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 16, 32, 32])
    """

    def __init__(self, channels: int, in_channels: int = 3) -> None:
        super().__init__(*conv_block(in_channels, channels))
        self.out_channels = channels


class RotationStem(nn.Sequential):
    """One lifting convolution: image channels to regular fields of a rotation group.

    Args:
        group: C_N or D_N.
        fields: number of regular fields; channels = fields · number of group elements.
        activation: whether a ReLU follows.

    Examples:
        >>> RotationStem("C4", fields=4, activation=True)(torch.rand(1, 3, 32, 32)).shape  # 4 fields of 4 channels
        torch.Size([1, 16, 32, 32])
    """

    def __init__(self, group: str, fields: int, activation: bool, in_channels: int = 3) -> None:
        lifting = RotationConv(group, in_channels, fields, in_representation="trivial")
        super().__init__(lifting, *([nn.ReLU(inplace=True)] if activation else []))
        self.out_channels = lifting.out_channels


class ScaleStem(nn.Sequential):
    """One lifting convolution, image channels to fields of a group of scales, then batch norm over fields, ReLU.

    Args:
        fields: number of filters, each seen at every scale.
        pooled: whether only the largest response over the scales is passed on, so that channels = fields; otherwise
            channels = fields · scales. Pooling hides which scale answered, but an image that shrinks loses one scale
            and gains another, and with few scales the maximum shows it.
        scales: number of scales.
        step: ratio of neighbouring scales.
    """

    def __init__(self, fields: int, pooled: bool, scales: int = 3, step: float = 2**0.5, in_channels: int = 3) -> None:
        group = ScaleGroup(scales, step=step)
        lifting = ScaleLifting(group, in_channels, fields)
        order = 1 if pooled else group.order
        pool = [GroupPool(group.order)] if pooled else []
        super().__init__(lifting, *pool, InnerBatchNorm(fields, order), nn.ReLU(inplace=True))
        self.out_channels = fields * order


class ParallelStem(nn.Module):
    """Stems side by side on the same image, their features concatenated.

    Args:
        branches: named stems.
        fused_channels: if given, a 1×1 convolution to that many channels, batch norm and ReLU follow.

    Raises:
        UserError: no branch, or a width that is no positive whole number.

    Examples:
        >>> branches = {"plain": ConvStem(8), "rotation": RotationStem("C4", fields=2, activation=True)}
        >>> ParallelStem(branches, fused_channels=16)(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 16, 32, 32])
    """

    def __init__(self, branches: Mapping[str, nn.Module], fused_channels: int | None = None) -> None:
        super().__init__()
        if not branches:
            raise UserError("branches must not be empty, got {}; name at least one stem")
        self.branches = nn.ModuleDict(dict(branches))
        width = sum(channels_of(branch) for branch in branches.values())
        self.fusion, self.out_channels = _fusion(width, fused_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, out_channels, H, W)."""
        features: Tensor = self.fusion(torch.cat([branch(images) for branch in self.branches.values()], dim=1))
        return features


class CascadedStem(nn.Module):
    """A plain convolution block, then a rotation convolution that takes its channels for regular fields.

    The plain channels are no fields of the group (nothing permutes them when the image turns), so the stem as a whole
    is not equivariant.

    Args:
        channels: of both, a multiple of the number of group elements.
        group: C_N or D_N.
        fused_channels: if given, a 1×1 convolution to that many channels, batch norm and ReLU follow.

    Raises:
        UserError: unknown group, or channels that do not divide into its fields.
    """

    def __init__(self, channels: int, group: str, fused_channels: int | None = None, in_channels: int = 3) -> None:
        super().__init__()
        order = Group(group).order
        self.conv = ConvStem(channels, in_channels)
        if channels % order:
            raise UserError(f"channels must be a multiple of {order} for group {group}, got {channels}; choose one")
        self.rotation = RotationConv(group, channels // order, channels // order)
        self.activation = nn.ReLU(inplace=True)
        self.fusion, self.out_channels = _fusion(channels, fused_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, out_channels, H, W)."""
        features: Tensor = self.fusion(self.activation(self.rotation(self.conv(images))))
        return features


class WeightedStem(nn.Module):
    """Sum of a plain and a rotation stem with learned positive weights that add up to 1, then ReLU.

    Args:
        conv: the stem that fixes the number of channels.
        rotation: the other one, brought to as many channels by a 1×1 convolution.
    """

    def __init__(self, conv: nn.Module, rotation: nn.Module) -> None:
        super().__init__()
        self.out_channels = channels_of(conv)
        self.conv = conv
        self.rotation = rotation
        self.projection = nn.Conv2d(channels_of(rotation), self.out_channels, 1)
        self.branch_logits = nn.Parameter(torch.zeros(2))  # softmax makes both weights 0.5 at the start
        self.activation = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, out_channels, H, W)."""
        plain, rotated = self.branch_logits.softmax(dim=0)
        summed: Tensor = self.activation(plain * self.conv(images) + rotated * self.projection(self.rotation(images)))
        return summed


def _fusion(width: int, fused_channels: int | None) -> tuple[nn.Module, int]:
    """1×1 convolution block to `fused_channels`, or nothing, and the number of channels that come out."""
    if fused_channels is None:
        return nn.Identity(), width
    require_positive(fused_channels=fused_channels)
    return conv_block(width, fused_channels, kernel_size=1), fused_channels
