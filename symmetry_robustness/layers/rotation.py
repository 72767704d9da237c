"""Steerable convolutions of the rotation groups C_N and D_N."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.basis import steerable_basis
from symmetry_robustness.layers.convolution import plain_convolution
from symmetry_robustness.layers.expansion_cache import ExpandedKernelCache, Kernels
from symmetry_robustness.layers.groups import FieldType
from symmetry_robustness.layers.validation import require_positive


class RotationConv(nn.Module):
    """Convolution that commutes with the rotations (and reflections) of a group, up to the pixel grid.

    Exact for quarter turns (C2, C4, D4 and, for the turns by 90°, any group that contains them), as long as the places
    where the kernel is put are turned onto one another: always with stride 1, with a larger one if it divides the
    size less one.

    Args:
        group: C_N or D_N, as in "C8".
        in_fields: number of input fields.
        out_fields: number of output fields.
        kernel_size: odd.
        in_representation: kind of the input fields, see `groups.py`; "trivial" for images (lifting).
        out_representation: kind of the output fields.
        bias: whether to add a learned number to each trivial or regular output field.
        stride: 1 keeps the size of the image.

    Raises:
        UserError: unknown group or representation, even kernel size, or no positive number of fields.

    Source: Weiler & Cesa 2019, arXiv 1911.08251.

    Examples:
        >>> lifting = RotationConv("C4", in_fields=3, out_fields=2, in_representation="trivial")
        >>> lifting(torch.rand(1, 3, 9, 9)).shape  # 2 fields of 4 channels
        torch.Size([1, 8, 9, 9])
    """

    basis: Tensor

    def __init__(
        self,
        group: str,
        in_fields: int,
        out_fields: int,
        kernel_size: int = 3,
        in_representation: str = "regular",
        out_representation: str = "regular",
        bias: bool = True,
        stride: int = 1,
    ) -> None:
        super().__init__()
        require_positive(in_fields=in_fields, fields=out_fields, stride=stride)
        self.in_type = FieldType(group, in_representation, in_fields)
        self.out_type = FieldType(group, out_representation, out_fields)
        self.in_channels, self.out_channels = self.in_type.channels, self.out_type.channels
        self.kernel_size, self.stride = kernel_size, stride
        basis = steerable_basis(group, in_representation, out_representation, kernel_size)
        deviation = basis.deviation / math.sqrt(in_fields)
        self.weight = nn.Parameter(torch.randn(out_fields, in_fields, len(deviation)) * deviation)
        self.parts = tuple((part.size, part.is_permuted) for part in self.out_type.parts)
        constants = sum(is_permuted for _, is_permuted in self.parts)
        self.bias = nn.Parameter(torch.zeros(constants * out_fields)) if bias and constants else None
        # Not persistent: it follows from the settings, so a checkpoint holds learned numbers only. One matrix per
        # component of the output, (o, k·k·i, d): what they make of the weights is a kernel in channels-last order.
        matrices = basis.filters.permute(1, 3, 4, 2, 0).flatten(1, 3).contiguous()
        self.register_buffer("basis", matrices, persistent=False)
        self._cache = ExpandedKernelCache()
        self.permute_fields = self.out_type.permute_fields

    def expand(self) -> tuple[Tensor, Tensor | None]:
        """Kernel (out_channels, in_channels, k, k), channels last, and bias of the plain convolution this one is."""
        return self.expand_weight(self.weight), self._expand_bias()

    def expand_weight(self, weight: Tensor) -> Tensor:
        """Kernel of a weight with the shape of the layer's own."""
        with torch.autocast(weight.device.type, enabled=False):  # as exact as the kernel of the exported layer
            kernel = torch.cat([component @ weight.mT for component in self.basis])  # (O, k·k·i, in_fields)
        kernel = kernel.view(self.out_channels, self.kernel_size, self.kernel_size, self.in_channels)
        return kernel.permute(0, 3, 1, 2)

    def _expand_bias(self) -> Tensor | None:
        """Bias (out_channels,): the same for all channels of a field, zero for those of vectors."""
        if self.bias is None:
            return None
        fields = len(self.weight)
        constants = iter(self.bias.split(fields))  # type: ignore[no-untyped-call]
        zeros = self.bias.new_zeros(fields)
        return torch.cat([(next(constants) if is_permuted else zeros).repeat(size) for size, is_permuted in self.parts])

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W), divided by the stride.

        Raises:
            UserError: the stride breaks the symmetry at this size.
        """
        if self.stride > 1 and any((size - 1) % self.stride for size in features.shape[-2:]):
            raise UserError(
                f"stride {self.stride} breaks the symmetry at {tuple(features.shape[-2:])} pixels: it must divide the "
                "size less one; choose such a size, or stride 1 and a pool whose windows tile the image"
            )
        channels_last = features.is_contiguous(memory_format=torch.channels_last)

        def expand(weight: Tensor) -> Kernels:
            kernel = self.expand_weight(weight)
            return (kernel if channels_last else kernel.contiguous(),)

        (kernel,) = self._cache.get(self.weight, expand, channels_last)
        return F.conv2d(features, kernel, self._expand_bias(), self.stride, padding=self.kernel_size // 2)

    @torch.no_grad()
    def export(self) -> nn.Module:
        """Return the plain convolution with the kernel of this moment; it still says `permute_fields`."""
        kernel, bias = self.expand()
        convolution = plain_convolution(kernel.contiguous(), bias, self.stride)
        convolution.permute_fields = self.permute_fields  # type: ignore[assignment]  # a plain function
        return convolution
