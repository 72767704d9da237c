"""Mixtures of several chains of image operations."""

import math
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from symmetry_robustness.data.augmentation.base import Augmentation
from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import warp
from symmetry_robustness.settings import checked

# Operations by their numbers: the first move pixels, the others map grey levels.
_ROTATE, _SHEAR_X, _SHEAR_Y, _TRANSLATE_X, _TRANSLATE_Y = range(5)
_MOVES: Final = 5
_AUTOCONTRAST, _EQUALIZE, _POSTERIZE, _SOLARIZE = range(_MOVES, 9)
_OPERATIONS: Final = 9


@final
@checked
@dataclass(frozen=True)
class AugMix(Augmentation):
    """Mix each image with a mixture of chains of random operations.

    Operations (rotate, shear, translate, autocontrast, equalize, posterize, solarize) and weights (Dirichlet(1) and
    Beta(1, 1)) are the source's: arXiv 1912.02781, alg. 1, and the released script. The script rounds to grey levels
    after each operation, here only those that map grey levels do.

    Args:
        width: Chains in a mixture.
        depth: Most operations in a chain; each chain draws its number from 1 to this.
        severity: Largest strength of an operation, from 0.1 to 10.

    Raises:
        UserError: if a setting is out of range.
    """

    width: int = 3
    depth: int = 3
    severity: float = 3.0

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{name} must be at least 1, got {value}; 3 is usual, augmentation=none mixes nothing")
        if not 0.1 <= self.severity <= 10:
            raise UserError(f"severity must lie in [0.1, 10], got {self.severity}; 3 is usual")

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Shares of the mixture (B,), of its chains (B, width); lengths (B, width); operations, strengths, signs."""
        chains, links = (size, self.width), (size, self.width, self.depth)
        shares = torch.empty(chains).exponential_(generator=generator)
        lengths = torch.randint(1, self.depth + 1, chains, generator=generator)
        operations = torch.randint(_OPERATIONS, links, generator=generator)
        strengths = 0.1 + (self.severity - 0.1) * torch.rand(links, generator=generator)
        signs = 1 - 2 * torch.randint(2, links, generator=generator)
        mixed = torch.rand(size, generator=generator)
        return mixed, shares / shares.sum(1, keepdim=True), lengths, operations, strengths, signs

    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Mix the images."""
        mixed, shares, lengths, operations, strengths, signs = draws
        chains = images.repeat_interleave(self.width, 0)
        for link in range(self.depth):
            kind, strength, sign = (part[:, :, link].flatten() for part in (operations, strengths, signs))
            in_use = lengths.flatten() > link
            for chosen, change in ((in_use & (kind < _MOVES), _move), (in_use & (kind >= _MOVES), _map_levels)):
                rows = chosen.nonzero().flatten()
                if len(rows):
                    there = rows.to(images.device)
                    chains[there] = change(chains[there], kind[rows], strength[rows], sign[rows])
        chains = chains.view(len(images), self.width, *images.shape[1:])
        mixture = (chains * shares.to(images)[:, :, None, None, None]).sum(1)
        return torch.lerp(images, mixture, mixed.to(images)[:, None, None, None]).clamp(0, 1)


def _move(images: Tensor, kind: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Rotate by up to 30 degrees, shear by up to 0.3, or translate by up to a third of the image; black comes in."""
    height, width = images.shape[-2:]
    angle = (sign * (3 * strength).floor() * (kind == _ROTATE)) * math.pi / 180
    shear = sign * 0.03 * strength
    across, down = shear * (kind == _SHEAR_X), shear * (kind == _SHEAR_Y)
    sources = torch.stack([angle.cos(), across - angle.sin(), down + angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
    # A shear leaves the upper or left edge where it is. Translations are whole pixels.
    pixels = torch.tensor([width, height]) * strength[:, None] / 30
    aside = torch.stack([kind == _TRANSLATE_X, kind == _TRANSLATE_Y], 1)
    shifts = sign[:, None] * pixels.floor() * aside + torch.stack([across * height, down * width], 1) / 2
    return warp(images, sources.to(images.device), shifts.to(images.device), outside="zeros")


def _map_levels(images: Tensor, kind: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Map the 256 grey levels of each channel, as Pillow's ImageOps do."""
    pixels = (255 * images).round_().long().flatten(2)
    kind, strength = kind.to(images.device)[:, None, None], strength.to(images.device)[:, None, None]
    level = torch.arange(256, device=images.device)
    low, high = pixels.amin(2, keepdim=True), pixels.amax(2, keepdim=True)
    stretched = ((level - low) * 255 / (high - low).clamp(min=1)).long()
    kept_bits = (4 - (strength * 4 / 10).long()).clamp(min=1)
    coarse = level >> (8 - kept_bits) << (8 - kept_bits)
    inverted = torch.where(level < 256 - (strength * 256 / 10).long(), level, 255 - level)
    table = torch.where(kind == _POSTERIZE, coarse, inverted)
    table = torch.where(kind == _AUTOCONTRAST, torch.where(high > low, stretched, level), table)
    table = torch.where(kind == _EQUALIZE, _equalized(pixels, high), table)
    return (table.clamp(0, 255).gather(2, pixels).float() / 255).view(images.shape)


def _equalized(pixels: Tensor, high: Tensor) -> Tensor:
    """Table (N, C, 256) after which the pixels (N, C, P) are spread evenly over the levels; `high` is the largest."""
    counts = pixels.new_zeros(*pixels.shape[:2], 256).scatter_add_(2, pixels, torch.ones_like(pixels))
    step = (pixels.shape[2] - counts.gather(2, high)) // 255
    spread = (step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)
    return torch.where(step > 0, spread, torch.arange(256, device=pixels.device))
