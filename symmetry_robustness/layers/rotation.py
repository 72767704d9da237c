"""Steerable convolutions of the rotation groups C_N and D_N; the only module that knows escnn.

A field is a feature map that the group acts on: a `trivial` field is one channel that only moves with the image, a
`regular` field has one channel per group element and is permuted as well. Channels are ordered field by field.
"""

import functools
import math
import re
import warnings
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.checks import require_odd, require_positive

Representation = Literal["trivial", "regular"]

# The basis of a larger group takes tens of seconds, and kernels of a few pixels hardly tell its rotations apart.
MAX_ORDER = 16


def group_order(group: str) -> int:
    """Number of elements of C_N (N rotations) or D_N (N rotations and as many reflections).

    Raises:
        UserError: the name is not such a group, or the group is too large.
    """
    match = re.fullmatch(r"([CD])([1-9][0-9]*)", str(group))
    order = int(match[2]) * (2 if match[1] == "D" else 1) if match else 0
    if not 1 <= order <= MAX_ORDER:
        raise UserError(
            f"group must be C1 to C{MAX_ORDER} or D1 to D{MAX_ORDER // 2}, got {group!r}; "
            "write C4 for quarter turns, D4 for quarter turns and reflections"
        )
    return order


class SteerableBasis(NamedTuple):
    """Basis of all equivariant kernels from one input field to one output field.

    Attributes:
        filters: (d, o, i, k, k), d kernels from the i channels of a field to the o channels of a field.
        deviation: (d,) standard deviation of each coefficient at the start, for one input field. Source: the
            generalised He initialisation of Weiler & Cesa 2019, arXiv 1911.08251.
    """

    filters: Tensor
    deviation: Tensor


@functools.cache
def steerable_basis(
    group: str, in_representation: Representation, out_representation: Representation, kernel_size: int
) -> SteerableBasis:
    """Sample the basis of equivariant kernels; computed once per process, never to be changed in place.

    Raises:
        UserError: unknown group or representation, or an even kernel size.
    """
    order = group_order(group)
    require_odd(kernel_size)
    for representation in (in_representation, out_representation):
        if representation not in get_args(Representation):
            raise UserError(f"representation must be trivial or regular, got {representation!r}; choose one of them")
    state = np.random.get_state()  # noqa: NPY002  # escnn draws from it; what a run draws later must not depend on this
    try:
        # Whatever device, precision or mode the caller is in, the cached tensors are ordinary ones.
        with (
            torch.device("cpu"),
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*py3nj.*")  # needed in three dimensions only
            # Imported here because it takes seconds, which networks without rotation layers need not spend.
            try:
                from escnn import gspaces
                from escnn import nn as escnn_nn
            except ModuleNotFoundError as error:
                if error.name != "escnn":
                    raise
                raise UserError(
                    f"group {group!r} needs escnn; install it alone: pip install --no-deps escnn==1.0.11"
                ) from error

            rotations = order if group[0] == "C" else order // 2
            space = (gspaces.rot2dOnR2 if group[0] == "C" else gspaces.flipRot2dOnR2)(rotations)
            fields = {"trivial": space.trivial_repr, "regular": space.regular_repr}
            convolution = escnn_nn.R2Conv(
                escnn_nn.FieldType(space, [fields[in_representation]]),
                escnn_nn.FieldType(space, [fields[out_representation]]),
                kernel_size,
                initialize=False,
            )
            coefficients = torch.eye(convolution.weights.numel())
            filters = torch.stack([convolution.basisexpansion(row) for row in coefficients])
            # Private, but the one place that knows the law; escnn is locked to one version.
            deviation = escnn_nn.init._generalized_he_init_variances(convolution.basisexpansion)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return SteerableBasis(filters.detach().view(*filters.shape[:3], kernel_size, kernel_size), deviation)


class RotationConv(nn.Module):
    """Convolution that commutes with the rotations (and reflections) of a group, up to the pixel grid.

    Exact for quarter turns (C2, C4, D4 and, for the turns by 90°, any group that contains them); it keeps the image
    size, because a stride of 2 on an even grid would break the symmetry.

    Args:
        group: C_N or D_N, as in "C8".
        in_fields: number of input fields.
        out_fields: number of output fields.
        kernel_size: odd.
        in_representation: kind of the input fields; "trivial" for images (lifting).
        out_representation: kind of the output fields.
        bias: whether to add one learned number per output field.

    Raises:
        UserError: unknown group, even kernel size, or no positive number of fields.

    Source: Weiler & Cesa 2019, arXiv 1911.08251.
    """

    basis: Tensor

    def __init__(
        self,
        group: str,
        in_fields: int,
        out_fields: int,
        kernel_size: int = 3,
        in_representation: Representation = "regular",
        out_representation: Representation = "regular",
        bias: bool = True,
    ) -> None:
        super().__init__()
        require_positive(in_fields=in_fields, fields=out_fields)
        basis = steerable_basis(group, in_representation, out_representation, kernel_size)
        deviation = basis.deviation / math.sqrt(in_fields)
        self.weight = nn.Parameter(torch.randn(out_fields, in_fields, len(deviation)) * deviation)
        self.bias = nn.Parameter(torch.zeros(out_fields)) if bias else None
        # Not persistent: it follows from the settings, so a checkpoint holds learned numbers only. A matrix, because a
        # network with a tensor of five dimensions cannot be moved to channels-last.
        self.register_buffer("basis", basis.filters.flatten(1), persistent=False)
        self.filter_shape = basis.filters.shape[1:]
        self.out_channels = out_fields * self.filter_shape[0]

    def expand(self) -> tuple[Tensor, Tensor | None]:
        """Kernel (out_channels, in_channels, k, k) and bias (out_channels,) of the plain convolution this one is."""
        filters = (self.weight @ self.basis).view(*self.weight.shape[:2], *self.filter_shape)  # (out, in, o, i, k, k)
        kernel = filters.transpose(1, 2).flatten(2, 3).flatten(0, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(self.filter_shape[0])
        return kernel, bias

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        kernel, bias = self.expand()
        return F.conv2d(features, kernel, bias, padding=self.filter_shape[-1] // 2)

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return the plain convolution with the kernel of this moment."""
        kernel, bias = self.expand()
        # On the meta device no random number is drawn for weights that are replaced at once.
        convolution = nn.Conv2d(
            kernel.shape[1], kernel.shape[0], kernel.shape[-1], padding="same", bias=bias is not None, device="meta"
        )
        convolution.weight = nn.Parameter(kernel, requires_grad=False)
        convolution.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        return convolution.eval()


class InnerBatchNorm(nn.Module):
    """Batch norm over regular fields: the channels of a field, which the group permutes, share their statistics.

    Args:
        fields: number of fields.
        order: channels per field, the number of group elements.
    """

    def __init__(self, fields: int, order: int) -> None:
        super().__init__()
        self.order = order
        self.norm = nn.BatchNorm1d(fields)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, fields · order, H, W), in the memory format it comes in."""
        batch, channels, height, width = features.shape
        fields = channels // self.order
        if features.is_contiguous(memory_format=torch.channels_last):
            pixels = features.permute(0, 2, 3, 1).reshape(-1, fields, self.order)
            normed: Tensor = self.norm(pixels).view(batch, height, width, channels).permute(0, 3, 1, 2)
        else:
            normed = self.norm(features.reshape(batch, fields, -1)).view(features.shape)
        return normed

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return the plain batch norm over channels in evaluation mode."""
        norm = nn.BatchNorm2d(self.norm.num_features * self.order, eps=self.norm.eps)
        for name, values in {**dict(self.norm.named_parameters()), **dict(self.norm.named_buffers())}.items():
            expanded = values.repeat_interleave(self.order) if values.dim() else values.clone()
            setattr(norm, name, nn.Parameter(expanded, requires_grad=False) if name in ("weight", "bias") else expanded)
        return norm.eval()


class GroupPool(nn.Module):
    """Maximum over the channels of each regular field, which makes it a trivial field.

    Args:
        order: channels per field, the number of group elements.
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, fields · order, H, W) to (B, fields, H, W)."""
        return features.view(features.shape[0], -1, self.order, *features.shape[2:]).amax(dim=2)
