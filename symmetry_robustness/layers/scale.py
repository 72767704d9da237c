"""Convolutions at several scales of the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.checks import require_positive
from symmetry_robustness.layers.convolution import conv_block


class MultiScaleConv(nn.Module):
    """One convolution block per scale, each with its own weights: many scales are seen, none is exchangeable.

    Each block sees the image resized by its scale (bilinear) and its features are resized back. Because the weights
    are not shared over the scales, resizing the image does not permute the output: this is no equivariant layer.

    Args:
        channels: of each scale; the output has channels · len(scales).
        scales: factors by which the image is resized.

    Raises:
        UserError: a scale is not positive, or there is none.

    Source: arXiv 2510.16171, scale branches of the parallel networks.
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
