"""Rotated and scaled views of the test images, each a test set of its own.

Pixels are resampled with a cubic kernel, wider where the image shrinks so that nothing aliases, and rounded to uint8.
Pixels from outside of the image take the colour of the nearest pixel of its edge: black would be an edge that no image
of the training has, and a reflection would put copies of parts of the object into the picture.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import centred, cubic_weights, outer, source_positions
from symmetry_robustness.settings import checked

_SCALES = (1 / 8, 8)  # beyond them an image of 32 pixels has a few pixels left


class View(NamedTuple):
    """A name, and a map from images uint8 (B, C, H, W) to the same; None leaves them as they are."""

    name: str
    transform: Callable[[Tensor], Tensor] | None


class TestTransform(ABC):
    """Turns each test set into several; `str` describes them, to be stated beside every number."""

    __test__ = False  # for pytest, which would take it for tests

    @abstractmethod
    def views(self) -> list[View]:
        """The views, in the order of the test sets they become."""


@checked
@dataclass(frozen=True)
class RotatedViews(TestTransform):
    """Every test image turned about its centre, once for each angle.

    Quarter turns move pixels and change none.

    Args:
        angles: In degrees, counter-clockwise.

    Raises:
        UserError: if there is none, or one is repeated or not finite.

    Examples:
        >>> print(RotatedViews([0, 90]))
        rotated by 0, 90 degrees
    """

    angles: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles", tuple(self.angles))
        _check("angles", self.angles, -math.inf, math.inf)

    def views(self) -> list[View]:
        """`rotation_90` and so on."""
        return [View(f"rotation_{angle:g}", partial(rotate, angle=angle)) for angle in self.angles]

    def __str__(self) -> str:
        return f"rotated by {', '.join(f'{angle:g}' for angle in self.angles)} degrees"


@checked
@dataclass(frozen=True)
class ScaledViews(TestTransform):
    """Every test image scaled about its centre, once for each factor.

    Args:
        scales: 0.5 shows everything at half its size, 2 the middle quarter of the image at twice its size.

    Raises:
        UserError: if there is none, or one is repeated or not in [1/8, 8].
    """

    scales: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        _check("scales", self.scales, *_SCALES)

    def views(self) -> list[View]:
        """`scale_0.5` and so on."""
        return [View(f"scale_{factor:g}", partial(rescale, factor=factor)) for factor in self.scales]

    def __str__(self) -> str:
        return f"scaled by {', '.join(f'{factor:g}' for factor in self.scales)}"


def _check(name: str, values: Sequence[float], low: float, high: float) -> None:
    setting = f"data.test_transform.{name}"
    if not values or len({f"{value:g}" for value in values}) < len(values):
        raise UserError(f"{setting} must be different numbers, got {list(values)}; name each once, and at least one")
    for value in values:
        if not (math.isfinite(value) and low <= value <= high):
            raise UserError(f"{setting} must lie in [{low:g}, {high:g}], got {value}; choose a number inside")


def rotate(images: Tensor, angle: float) -> Tensor:
    """Turn square images about their centre.

    Args:
        images: uint8 (B, C, H, H).
        angle: In degrees, counter-clockwise; multiples of 90 are exact.

    Returns:
        uint8 (B, C, H, H).

    Examples:
        >>> images = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2)
        >>> rotate(images, 90).flatten().tolist()
        [1, 3, 0, 2]
    """
    if angle % 90 == 0:
        return torch.rot90(images, int(angle // 90) % 4, (-2, -1))
    size = images.shape[-1]
    rows, columns = (cubic_weights(places.flatten(), size) for places in source_positions(size, angle))
    matrix = outer(rows, columns).to(images.device)
    return _as_pixels(images.to(torch.float32).flatten(2) @ matrix.T).view(images.shape)


def rescale(images: Tensor, factor: float) -> Tensor:
    """Scale images about their centre; the size of the picture stays.

    Args:
        images: uint8 (B, C, H, W).
        factor: Larger than 1 magnifies.

    Returns:
        uint8 (B, C, H, W).
    """
    rows, columns = (cubic_weights(centred(size) / factor, size, max(1.0, 1 / factor)) for size in images.shape[-2:])
    return _as_pixels(rows.to(images.device) @ images.to(torch.float32) @ columns.T.to(images.device))


def _as_pixels(values: Tensor) -> Tensor:
    """Nearest uint8; the cubic kernel overshoots at edges."""
    return values.round().clamp(0, 255).to(torch.uint8)
