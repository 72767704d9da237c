"""Norms and nonlinearities that treat the channels of a field together, so that they commute with the group.

See `groups.py` for fields, their representations and the order of their channels. A type that joins several
representations is treated part by part.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.groups import FieldType
from symmetry_robustness.layers.validation import require_positive

Nonlinearity = Literal["relu", "norm"]


def field_norm(field_type: FieldType) -> nn.Module:
    """Batch norm whose statistics the group leaves alone."""
    return direct_sum(
        field_type,
        lambda part: VectorBatchNorm(part.fields) if part.frequency else InnerBatchNorm(part.fields, part.size),
    )


def field_nonlinearity(field_type: FieldType, kind: Nonlinearity) -> nn.Module:
    """The nonlinearity of a block.

    Args:
        field_type: of the features.
        kind: "relu" acts on each channel, and commutes with a group that permutes them; "norm" shrinks each field as a
            whole, see `NormReLU`, and suits every representation. A trivial field, a single channel without direction,
            gets the ReLU in either case.

    Raises:
        UserError: no such nonlinearity, or not for these fields.
    """
    if kind not in ("relu", "norm"):
        raise UserError(f"nonlinearity must be relu or norm, got {kind!r}; choose one of them")
    if kind == "relu":
        if not field_type.is_permuted:
            raise UserError(
                f"nonlinearity relu does not commute with the turns of {field_type.representation}; choose norm"
            )
        return nn.ReLU()  # not in place: the output of the norm is a view, which autograd would copy
    return direct_sum(
        field_type, lambda part: nn.ReLU() if part.kind == "trivial" else NormReLU(part.fields, part.size)
    )


class InnerBatchNorm(nn.Module):
    """Batch norm over trivial or regular fields, with common statistics for the channels of a field.

    A plain batch norm, for which the components of a field are further pixels; no number is moved in memory.

    Args:
        fields: number of fields.
        order: channels per field, the number of group elements.
    """

    def __init__(self, fields: int, order: int) -> None:
        super().__init__()
        self.order = order
        self.norm = nn.BatchNorm2d(fields)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, order · fields, H, W), in the memory format it comes in."""
        batch, channels, height, width = features.shape
        fields = channels // self.order
        if features.is_contiguous(memory_format=torch.channels_last):
            wide = features.permute(0, 2, 3, 1).reshape(batch, height, width * self.order, fields).permute(0, 3, 1, 2)
            normed: Tensor = self.norm(wide)
            return normed.permute(0, 2, 3, 1).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        normed = self.norm(features.reshape(batch * self.order, fields, height, width))
        return normed.reshape(features.shape)  # not a view: torch.func.vmap gives other strides

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return the plain batch norm over channels in evaluation mode."""
        norm = nn.BatchNorm2d(self.norm.num_features * self.order, eps=self.norm.eps)
        for name, values in {**dict(self.norm.named_parameters()), **dict(self.norm.named_buffers())}.items():
            expanded = values.repeat(self.order) if values.dim() else values.clone()
            setattr(norm, name, nn.Parameter(expanded, requires_grad=False) if name in ("weight", "bias") else expanded)
        return norm.eval()


class VectorBatchNorm(nn.Module):
    """Batch norm over fields of vectors: divides by their root mean square; no mean, as only 0 is turned onto itself.

    Args:
        fields: number of vectors.
        eps: added to the mean square.
        momentum: weight of the batch in the running mean square.
    """

    running_square: Tensor

    def __init__(self, fields: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        require_positive(fields=fields)
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(fields))
        self.register_buffer("running_square", torch.ones(fields))

    def _mean_square(self, features: Tensor) -> Tensor:
        """Of the vectors' components over a batch, (fields,)."""
        return _square(features).mean(dim=(0, 2, 3)).view(2, -1).mean(dim=0)

    def _scale(self, square: Tensor) -> Tensor:
        """Factor for each channel, given the mean square of each field."""
        return (self.weight * torch.rsqrt(square + self.eps)).repeat(2)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, 2 · fields, H, W)."""
        square = self.running_square
        if self.training:
            square = self._mean_square(features)
            with torch.no_grad():
                self.running_square.lerp_(square.to(self.running_square.dtype), self.momentum)
        return features * self._scale(square).to(features.dtype)[:, None, None]

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return the same map as a plain batch norm in evaluation mode."""
        norm = nn.BatchNorm2d(2 * len(self.weight), eps=self.eps, device=self.weight.device)
        norm.running_var = self.running_square.repeat(2)
        norm.weight = nn.Parameter(self.weight.repeat(2), requires_grad=False)
        norm.bias = nn.Parameter(torch.zeros_like(norm.weight), requires_grad=False)
        return norm.eval()


class NormReLU(nn.Module):
    """Shortens each field by a learned length, to nothing if it was not longer; its direction stays.

    The length starts at 1 for vectors, as in escnn's NormNonLinearity, and grows with the root of the size, because the
    components have mean square 1 after the norm. Source: Worrall et al. 2017, arXiv 1612.04642.

    Args:
        fields: number of fields.
        size: channels per field.
    """

    def __init__(self, fields: int, size: int) -> None:
        super().__init__()
        require_positive(fields=fields, size=size)
        self.size = size
        self.log_length = nn.Parameter(torch.full((fields,), math.log(size / 2) / 2))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, size · fields, H, W) to the same shape."""
        length = field_length(features, self.size)
        factor = F.relu(1 - self.log_length.exp()[:, None, None] / length).to(features.dtype)
        return features * factor.repeat(1, self.size, 1, 1)


def _square(features: Tensor) -> Tensor:
    """Squares, in float32 at least: sums of them leave no digits in less."""
    return features.to(torch.promote_types(features.dtype, torch.float32)).square()


def field_length(features: Tensor, size: int) -> Tensor:
    """Length of each field (B, fields, H, W), never quite 0, where it would have no gradient."""
    batch, channels, height, width = features.shape
    return _square(features).reshape(batch, size, channels // size, height, width).sum(dim=1).add(1e-12).sqrt()


def direct_sum(field_type: FieldType, layer: Callable[[FieldType], nn.Module]) -> nn.Module:
    """One layer for each part of a type; the layer itself if there is one part."""
    parts = field_type.parts
    return (
        DirectSum([part.channels for part in parts], [layer(part) for part in parts])
        if len(parts) > 1
        else layer(parts[0])
    )


class DirectSum(nn.Module):
    """Layers side by side, each on its own run of channels.

    Args:
        channels: how many each layer takes.
        layers: the layers.
    """

    def __init__(self, channels: Sequence[int], layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.channels = list(channels)
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, H, W) to what the layers make of their runs, concatenated."""
        runs = torch.split(features, self.channels, dim=1)
        return torch.cat([layer(run) for layer, run in zip(self.layers, runs, strict=True)], dim=1)
