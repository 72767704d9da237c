"""Turned images."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from symmetry_robustness.data.augmentation.base import Augmentation
from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import turn_quarters, warp
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class RandomRotation(Augmentation):
    """Turn each image about its centre: by quarters, which move pixels and change none, then by an angle.

    The data's twin of an invariant layer. Angles in between are interpolated linearly; the image's edge goes on as it
    ends.

    Args:
        quarters: Whether to turn by 0, 90, 180 or 270 degrees, each as likely.
        degrees: Largest angle to either side, beyond the quarters; 0 interpolates nothing. 30 are the angles of the
            spatial attack of arXiv 1712.02779.

    Raises:
        UserError: if the angle is out of range, or images are to be turned that are not square.
    """

    quarters: bool = True
    degrees: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise UserError(f"degrees must lie in [0, 180], got {self.degrees}; 180 is every angle, 0 none")

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Quarters (B,) int64 and angles (B,) in degrees."""
        turns = torch.randint(4, (size,), generator=generator) * self.quarters
        return turns, self.degrees * (2 * torch.rand(size, generator=generator) - 1)

    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Turn the images."""
        turns, angles = draws
        if self.quarters:
            images = turn_quarters(images, turns.to(images.device))
        if not self.degrees:
            return images
        cosine, sine = (function(angles * math.pi / 180) for function in (torch.cos, torch.sin))
        # Where the pixels of the turned image come from; rows count downwards.
        sources = torch.stack([cosine, -sine, sine, cosine], 1).reshape(-1, 2, 2)
        return warp(images, sources.to(images.device))
