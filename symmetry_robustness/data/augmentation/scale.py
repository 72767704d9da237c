"""Magnified and shrunk images."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from symmetry_robustness.data.augmentation.base import Augmentation
from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import warp
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class RandomScale(Augmentation):
    """Magnify each image about its centre by a factor of its own, drawn log-uniformly.

    Interpolated linearly; the image's edge goes on as it ends.

    Args:
        smallest: Factor; below 1 the picture shrinks.
        largest: Factor. 1 and 1 change nothing.

    Raises:
        UserError: if the factors are out of order or out of range.
    """

    smallest: float = 0.8
    largest: float = 1.25

    def __post_init__(self) -> None:
        if not 1 / 8 <= self.smallest <= self.largest <= 8:
            raise UserError(
                f"smallest={self.smallest} and largest={self.largest} must ascend within [1/8, 8]; try 0.8 and 1.25"
            )

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Factors (B,)."""
        low, high = math.log(self.smallest), math.log(self.largest)
        return ((low + (high - low) * torch.rand(size, generator=generator)).exp(),)

    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Magnify the images."""
        (factors,) = draws
        if self.smallest == self.largest == 1:
            return images
        return warp(images, (torch.eye(2) / factors[:, None, None]).to(images.device))
