"""Augmentation of whole batches on their device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from symmetry_robustness.errors import UserError


@dataclass(frozen=True)
class RandomCropFlip:
    """Pad with black, cut out a window of the old size at random, mirror every second image.

    Args:
        padding: Pixels added on each side.
        flip: Whether to mirror left and right with probability one half.

    Source: arXiv 1512.03385, sec. 4.2.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise UserError(f"data.augmentation.padding must not be negative, got {self.padding}; 0 shifts nothing")

    def __call__(self, images: Tensor, generator: torch.Generator, rows: slice, batch_size: int) -> Tensor:
        """Augment one rank's rows of a batch.

        Args:
            images: (B, C, H, W), the rows `rows` of a batch that is divided among the ranks.
            generator: On the CPU; draws for the whole batch, so that the result does not depend on the number of ranks.
            rows: The rows of this rank.
            batch_size: Images of the batch over all ranks.

        Returns:
            (B, C, H, W) on the device of the images.
        """
        shifts = torch.randint(0, 2 * self.padding + 1, (2, batch_size), generator=generator)[:, rows]
        mirrored = (torch.rand(batch_size, generator=generator) < 0.5)[rows] & self.flip
        height, width = images.shape[-2:]
        columns = torch.arange(width)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns) + shifts[1][:, None]
        lines = torch.arange(height) + shifts[0][:, None]
        columns, lines = columns.to(images.device), lines.to(images.device)
        padded = functional.pad(images, (self.padding,) * 4)
        image = torch.arange(len(images), device=images.device)[:, None, None]
        # Indices around the full channel axis put it last: (B, H, W, C).
        return padded[image, :, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
