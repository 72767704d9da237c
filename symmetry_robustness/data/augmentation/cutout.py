"""Images with a square cut out."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from symmetry_robustness.data.augmentation.base import Augmentation
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class Cutout(Augmentation):
    """Paint a square of each image in one grey.

    The square lies inside the image, as in the script of arXiv 2002.11569, whose adversarial training it kept from
    overfitting; arXiv 1708.04552 lets it stand out.

    Args:
        length: Side of the square in pixels; 0 cuts out nothing. 14 is the length of arXiv 2002.11569.
        fill: Value of its pixels, in [0, 1].

    Raises:
        UserError: if the length is negative or exceeds an image, or the value is none of a pixel.
    """

    length: int = 14
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UserError(f"length must not be negative, got {self.length}; 0 cuts out nothing")
        if not 0 <= self.fill <= 1:
            raise UserError(f"fill must lie in [0, 1], got {self.fill}; 0 is black")

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Places of the squares as shares of the room that there is, (B, 2)."""
        return (torch.rand(size, 2, generator=generator),)

    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Paint the squares."""
        (shares,) = draws
        height, width = images.shape[-2:]
        if self.length > min(height, width):
            raise UserError(f"length={self.length} exceeds images of {height} × {width} pixels; choose a smaller one")
        room = torch.tensor([height, width]) - self.length + 1
        first = (shares * room).long().to(images.device)
        inside = []
        for axis, pixels in enumerate((height, width)):
            place = torch.arange(pixels, device=images.device) - first[:, axis, None]
            inside.append((place >= 0) & (place < self.length))
        square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return images * ~square + self.fill * square  # several times as fast as masked_fill
