"""Normalisation as a layer, so that attacks and reports work on pixels in [0, 1]."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError


class Normalize(nn.Module):
    """Maps images in [0, 1] to (images - mean) / std.

    Args:
        mean: one value, or one per channel.
        std: the same, positive.

    Raises:
        UserError: a std is not positive, a value is not finite or no number, or mean and std differ in length.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float], channels: int = 3) -> None:
        super().__init__()
        means, stds = _per_channel("mean", mean, channels), _per_channel("std", std, channels)
        if not (stds > 0).all():
            raise UserError(f"std must be positive, got {std}; use 1 to leave the contrast as it is")
        scale, shift = (1 / stds).float(), (-means / stds).float()
        if not (scale.isfinite() & shift.isfinite() & (scale > 0)).all():
            raise UserError(f"mean={mean} and std={std} overflow in float32; give those of images in [0, 1]")
        # Not persistent: the values belong to the configuration, which travels with every checkpoint.
        self.register_buffer("scale", scale.view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, H, W)."""
        return torch.addcmul(self.shift, images, self.scale)  # one pass over the images

    def export(self) -> nn.Module:
        """Return the same map as a batch norm in evaluation mode."""
        # In float32 so small an eps adds nothing, and without any torch refuses the layer in training mode.
        norm = nn.BatchNorm2d(self.scale.shape[0], eps=1e-12, affine=False, device=self.scale.device)
        norm.running_var = self.scale.flatten() ** -2
        norm.running_mean = -(self.shift / self.scale).flatten()
        return norm.eval()


def _per_channel(name: str, values: float | Sequence[float], channels: int) -> Tensor:
    """Spread one value over all channels, or check that there is one per channel; float64 (channels,)."""
    numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values] * channels
    are_numbers = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    if len(numbers) != channels or not are_numbers:
        raise UserError(f"{name} must be one number or {channels}, got {values!r}; give one per channel")
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{name} must be finite, got {values!r}; give that of images in [0, 1]")
    return torch.tensor(numbers, dtype=torch.float64)
