"""Shifted and mirrored images."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from symmetry_robustness.data.augmentation.base import Augmentation
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class RandomCropFlip(Augmentation):
    """Pad with black, cut out a window of the old size at random, mirror every second image.

    Args:
        padding: Pixels added on each side.
        flip: Whether to mirror left and right with probability one half.

    Source: arXiv 1512.03385, sec. 4.2.

    Raises:
        UserError: if the padding is negative.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise UserError(f"padding must not be negative, got {self.padding}; 0 shifts nothing")

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Rows and columns of the window (B, 2), and whether to mirror (B,)."""
        shifts = torch.randint(0, 2 * self.padding + 1, (2, size), generator=generator).T
        return shifts, (torch.rand(size, generator=generator) < 0.5) & self.flip

    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Cut out the windows, and mirror them."""
        shifts, mirrored = draws
        height, width = images.shape[-2:]
        columns = torch.arange(width)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns) + shifts[:, 1:]
        lines = torch.arange(height) + shifts[:, :1]
        places = lines[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]
        index = places.flatten(1).to(images.device)[:, None].expand(-1, images.shape[1], -1)
        padded = functional.pad(images, (self.padding,) * 4)
        return padded.flatten(2).gather(2, index).view(images.shape)
