"""Weights by which pixels are resampled: where points of a moved image come from, and kernels that interpolate there.

Positions are float64 and in pixels, 0 being the middle of the line; rows count downwards.
"""

import math
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from symmetry_robustness.errors import UserError

# Zero crossings of the sinc on each side: amplitudes are right to 0.5 % up to 0.8 of the highest frequency that the
# smaller grid can hold, and 2 % of what is 1.5 times as high is left.
LOBES: Final = 8


def centred(size: int) -> Tensor:
    """Positions (size,) of the pixels of a line.

    Examples:
        >>> centred(3).tolist()
        [-1.0, 0.0, 1.0]
    """
    return torch.arange(size, dtype=torch.float64, device="cpu") - (size - 1) / 2


def source_positions(size: int, angle: float, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rows and columns, (size, size) each, that the pixels of a moved square image come from.

    Args:
        size: height and width of the image.
        angle: of the rotation about the centre, degrees, counter-clockwise.
        scale: of the magnification.
    """
    row, column = torch.meshgrid(centred(size), centred(size), indexing="ij")
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return (sine * column + cosine * row) / scale, (cosine * column - sine * row) / scale


def outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Weights (P, H · W) of the pixels of an image for P points, from those (P, H) of its rows and (P, W) columns."""
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def cubic_weights(positions: Tensor, size: int, width: float = 1.0) -> Tensor:
    """Cubic convolution; beyond its ends the line goes on as it ends.

    Args:
        positions: (P,), positions of the points.
        size: pixels of the line.
        width: of the kernel; wider than 1 keeps what is sampled more coarsely from aliasing.

    Returns:
        float32 (P, size), rows add up to 1.
    """
    positions = positions + (size - 1) / 2
    margin = math.ceil(2 * width + max(0.0, float(-positions.min()), float(positions.max()) - size))
    taps = torch.arange(-margin, size + margin)
    weights = _cubic((taps - positions[:, None]) / width)
    weights = weights / weights.sum(1, keepdim=True)
    folded = torch.zeros(len(positions), size, dtype=torch.float64)
    return folded.index_add_(1, taps.clamp(0, size - 1), weights).to(torch.float32)


def _cubic(distance: Tensor) -> Tensor:
    """Cubic convolution with a = -1/2. Source: Keys 1981 (doi 10.1109/TASSP.1981.1163711), eq. 15."""
    d = distance.abs()
    near, far = (1.5 * d - 2.5) * d**2 + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def lanczos_weights(size: int, factor: float) -> Tensor:
    """Lanczos weights (size // factor, size), float64, of every pixel for every pixel of a grid `factor` as coarse."""
    small = int(size / factor)
    distance = (centred(small)[:, None] * factor + (size - 1) / 2 - torch.arange(size, device="cpu")) / factor
    weights = torch.where(distance.abs() < LOBES, torch.sinc(distance) * torch.sinc(distance / LOBES), 0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def periodic_sinc_weights(positions: Tensor, size: int) -> Tensor:
    """Weights (P, size), float32, of the pixels of a periodic line without its highest frequency: exact for such."""
    count = 2 * ((size + 1) // 2) - 1  # frequencies below the limit, positive and negative
    phase = math.pi / size * (positions[:, None] - centred(size)[None, :])
    sine = torch.sin(phase)
    at_pixel = sine.abs() < 1e-9
    ratio = torch.sin(count * phase) / torch.where(at_pixel, 1.0, sine)
    return (torch.where(at_pixel, float(count), ratio) / size).float()


def downsample(images: Tensor, factor: float) -> Tensor:
    """Shrink images about their centre, without aliasing.

    Args:
        images: (…, H, W).
        factor: at least 1; a pixel of the result is so many pixels of the images wide.

    Returns:
        (…, H // factor, W // factor). Within 8 · factor pixels of the border the filter is cut off.

    Raises:
        UserError: a factor below 1, or nothing would be left.
    """
    height, width = images.shape[-2:]
    if not 1 <= factor <= min(height, width):
        raise UserError(f"factor must be between 1 and {min(height, width)}, got {factor}; upsampling is not supported")
    rows, columns = lanczos_weights(height, factor).to(images), lanczos_weights(width, factor).to(images)
    return rows @ images @ columns.T


def turn_quarters(images: Tensor, turns: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Turn each image by quarters of its own, exactly: pixels move, none changes.

    Args:
        images: (B, C, H, W); square where a turn is not 0.
        turns: counter-clockwise, int64 (B,), 0 to 3.
        mirrored: int64 (B,), 1 where the image is mirrored left and right first; None mirrors none.

    Examples:
        >>> turn_quarters(torch.arange(4).reshape(1, 1, 2, 2), torch.tensor([1])).flatten().tolist()
        [1, 3, 0, 2]
    """
    _, channels, height, width = images.shape
    grid = torch.arange(height * width, device=images.device).reshape(height, width)
    quarters = 4 if height == width else 1
    places = torch.stack([torch.rot90(g, k) for g in (grid, grid.flip(1)) for k in range(quarters)]).flatten(1)
    index = places[turns if mirrored is None else mirrored * quarters + turns]
    return images.flatten(2).gather(2, index[:, None].expand(-1, channels, -1)).reshape(images.shape)


def warp(
    images: Tensor, sources: Tensor, shifts: Tensor | None = None, outside: Literal["border", "zeros"] = "border"
) -> Tensor:
    """Move each image by an affine map of its own about its centre, with linear interpolation.

    Args:
        images: (B, C, H, W).
        sources: (B, 2, 2); the pixel of a result at (x, y), to the right and downwards, comes from sources · (x, y).
        shifts: pixels (B, 2) that are added to that place; None for none.
        outside: whether the edge goes on as it ends, or is followed by black.

    Returns:
        (B, C, H, W).
    """
    half = [size / 2 for size in images.shape[:1:-1]]  # columns, rows
    right, down = (centred(size).to(sources) for size in images.shape[:1:-1])
    moved = torch.zeros_like(sources[:, 0]) if shifts is None else shifts
    # torch counts in halves of the image; its own affine_grid takes longer than the interpolation.
    places = [
        (row[:, 0, None, None] * right + row[:, 1, None, None] * down[:, None] + shift[:, None, None]) / length
        for row, shift, length in zip(sources.unbind(1), moved.unbind(1), half, strict=True)
    ]
    grid = torch.stack(places, 3)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)
