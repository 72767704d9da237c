"""Shrinking images without aliasing, by any factor."""

import torch
from torch import Tensor

from symmetry_robustness.errors import UserError

# Zero crossings of the sinc on each side: amplitudes are right to 0.5 % up to 0.8 of the highest frequency that the
# smaller grid can hold, and 2 % of what is 1.5 times as high is left.
LOBES = 8


def shrink(images: Tensor, factor: float) -> Tensor:
    """Shrink images about their centre, what is too fine for the smaller grid filtered out before.

    Args:
        images: (…, H, W).
        factor: at least 1; a pixel of the result is so many pixels of the images wide.

    Returns:
        (…, H // factor, W // factor). Pixels nearer to the border than 8 · factor pixels know one side less well.

    Raises:
        UserError: a factor below 1, or nothing would be left.
    """
    height, width = images.shape[-2:]
    if not 1 <= factor <= min(height, width):
        raise UserError(
            f"factor must be between 1 and {min(height, width)}, got {factor}; to enlarge is another matter"
        )
    rows, columns = _weights(height, factor).to(images), _weights(width, factor).to(images)
    return rows @ images @ columns.T


def _weights(size: int, factor: float) -> Tensor:
    """Lanczos weights (size // factor, size) of every pixel for every pixel of the smaller grid."""
    small = int(size / factor)
    centre = (torch.arange(small, dtype=torch.float64, device="cpu") - (small - 1) / 2) * factor + (size - 1) / 2
    distance = (centre[:, None] - torch.arange(size, dtype=torch.float64, device="cpu")) / factor
    weights = torch.where(distance.abs() < LOBES, torch.sinc(distance) * torch.sinc(distance / LOBES), 0.0)
    return weights / weights.sum(dim=1, keepdim=True)
