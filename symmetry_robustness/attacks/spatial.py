"""Rotations and translations of the image as a threat of their own, and searches for one that deceives."""

import itertools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import CheckedAttack
from symmetry_robustness.attacks.losses import cross_entropy
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import Threat, UsualSizes, check_bounds, parse_epsilon
from symmetry_robustness.attacks.validation import check_count, check_logits, predict
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource, sample
from symmetry_robustness.settings import checked

SPATIAL: Final = "spatial"

# Limits of arXiv 1712.02779 (its released configuration): degrees, pixels to the right, pixels down.
_LIMITS: Final = (30.0, 3.0, 3.0)


@final
@dataclass(frozen=True)
class SpatialThreat(Threat):
    """Rotations about the centre by up to 30° · epsilon, then shifts by up to 3 pixels · epsilon along each axis.

    A point of it is (angle in degrees, counter-clockwise; pixels to the right; pixels down), so that points are
    (B, 3), and the size of a change is the largest of |angle| / 30, |right| / 3 and |down| / 3: epsilon 1 has the
    limits of arXiv 1712.02779. Images are resampled bilinearly, and what comes in from outside is black. Quarter turns
    of square images and shifts by whole pixels move pixels and change none.

    Args:
        epsilon: size, 1 for the limits above.
        bounds: smallest and largest pixel value.

    Examples:
        >>> threat, images = SpatialThreat(), torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
        >>> threat.realize(torch.tensor([[90.0, 0.0, 0.0]]), images).flatten()
        tensor([0.2000, 0.4000, 0.1000, 0.3000])
        >>> threat.distance(torch.tensor([[15.0, 0.0, -3.0]]), images)
        tensor([1.], dtype=torch.float64)
    """

    epsilon: float = 1.0
    bounds: tuple[float, float] = (0.0, 1.0)

    norm = SPATIAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", parse_epsilon(self.epsilon))
        if check_bounds(self.bounds) != (0.0, 1.0):  # black comes in from outside
            raise UserError(f"norm spatial needs bounds [0, 1], got {list(self.bounds)}; leave them out")

    def point_shape(self, images: Tensor) -> tuple[int, ...]:
        """Three numbers for each image."""
        return len(images), len(_LIMITS)

    def realize(self, points: Tensor, images: Tensor) -> Tensor:
        """Images (B, C, H, W), turned and shifted by points (B, 3)."""
        return transformed(images, points[:, 0], points[:, 1], points[:, 2])

    def distance(self, points: Tensor, images: Tensor) -> Tensor:
        """Largest share of a limit that each change takes, (B,)."""
        return (points.double() / points.new_tensor(_LIMITS, dtype=torch.float64)).abs().amax(1)

    def excess(self, points: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """By how much the size of each change is above epsilon, (B,)."""
        largest = self.epsilon if epsilon is None else epsilon.double()
        return (self.distance(points, images) - largest).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)

    def far_points(self, images: Tensor, source: RandomSource) -> Tensor:
        """Uniform points within the limits."""
        return self.scaled(2 * sample(torch.rand, self.point_shape(images), source, images.device) - 1)

    def usual_sizes(self, dimension: int) -> UsualSizes:
        """From a thirtieth of the source's limits to six times as much, a rotation by any angle."""
        return UsualSizes(1 / 30, 6.0, "1 stands for 30° and 3 pixels, 1/30 to 6 is usual")

    def scaled(self, shares: Tensor) -> Tensor:
        """Points (..., 3) from shares of the limits, (..., 3) in [-1, 1]."""
        return shares * (self.epsilon * shares.new_tensor(_LIMITS))


def transformed(images: Tensor, angle: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Images rotated about their centre and then shifted, each by its own amounts; bilinear, with zero outside.

    Args:
        images: (B, C, H, W).
        angle: (B,) degrees, counter-clockwise.
        right: (B,) pixels.
        down: (B,) pixels.

    Returns:
        (B, C, H, W), of the images' type.
    """
    channels, height, width = images.shape[1:]
    middle = ((height - 1) / 2, (width - 1) / 2)
    lines = [torch.arange(size, device=images.device, dtype=torch.float64) for size in (height, width)]
    # Where each pixel comes from, relative to the centre; float64, so that quarter turns hit pixels exactly.
    row = (lines[0] - middle[0])[None, :, None] - down.double()[:, None, None]
    column = (lines[1] - middle[1])[None, None, :] - right.double()[:, None, None]
    turn = torch.deg2rad(angle.double())[:, None, None]
    cosine, sine = turn.cos(), turn.sin()
    rows, columns = sine * column + cosine * row + middle[0], cosine * column - sine * row + middle[1]
    top, left = rows.floor(), columns.floor()
    flat, result = images.flatten(2), torch.zeros_like(images)
    for y, x in itertools.product((0, 1), (0, 1)):
        at_row, at_column = top + y, left + x
        weight = (1 - (rows - at_row).abs()) * (1 - (columns - at_column).abs())
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        place = (at_row.clamp(0, height - 1) * width + at_column.clamp(0, width - 1)).long()
        found = flat.gather(2, place.flatten(1)[:, None].expand(-1, channels, -1)).reshape(images.shape)
        result = result + (weight * inside).to(images.dtype)[:, None] * found
    return result.clamp(0, 1)


class SpatialSearch(CheckedAttack):
    """A search through rotations and shifts, from small ones to large ones; the first that deceives is returned."""

    uses_gradient = False
    norms = (SPATIAL,)

    @abstractmethod
    def candidates(self, threat: SpatialThreat, images: Tensor, source: RandomSource) -> Tensor:
        """Points (B, n, 3) that are tried on images (B, C, H, W)."""

    @property
    def cost(self) -> float | None:  # type: ignore[override]
        """A pass for each candidate."""
        return self.steps

    def craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: SpatialThreat, source: RandomSource
    ) -> Tensor:
        """Return points (B, 3): of each image the smallest that deceives, else the one of largest cross-entropy."""
        points = self.candidates(threat, images, source)
        sizes = threat.distance(points.flatten(0, 1), images).reshape(points.shape[:2])
        order = sizes.argsort(dim=1, stable=True)
        points = points.gather(1, order[:, :, None].expand_as(points))
        best, highest = points[:, 0].clone(), images.new_full((len(images),), -torch.inf)
        left = torch.arange(len(images), device=images.device)
        for number in range(points.shape[1]):
            if not len(left):
                break
            tried = points[left, number]
            logits = predict(network, threat.realize(tried, images[left]))
            if not number:
                check_logits(logits)
            losses, fooled = cross_entropy(logits, labels[left]), logits.argmax(1) != labels[left]
            taken = fooled | (losses > highest[left])
            best[left] = torch.where(per_image(taken, tried), tried, best[left])
            highest[left] = torch.maximum(highest[left], losses)
            left = left[~fooled]
        return best


@final
@checked
@dataclass(frozen=True)
class SpatialGrid(SpatialSearch):
    """All combinations of some angles and shifts at equal distances up to the limits of the threat.

    Source: arXiv 1712.02779, whose grid this is.

    Args:
        rotations: angles; odd, so that 0 is one of them.
        translations: shifts along each axis; odd.

    Examples:
        >>> images, network = torch.rand(2, 3, 8, 8), nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
        >>> SpatialGrid(rotations=3, translations=1)(network, images, torch.tensor([0, 1]), SpatialThreat()).shape
        torch.Size([2, 3])
    """

    rotations: int = 31
    translations: int = 5

    is_random = False

    def __post_init__(self) -> None:
        for name in ("rotations", "translations"):
            check_count(name, count := getattr(self, name))
            if count % 2 == 0:
                raise UserError(f"{name} must be odd, so that the image itself is tried, got {count}; take {count + 1}")

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Points of the grid."""
        return self.rotations * self.translations**2

    def candidates(self, threat: SpatialThreat, images: Tensor, source: RandomSource) -> Tensor:
        """The grid (B, n, 3), the same for all images."""
        lines = [_line(count).to(images) for count in (self.rotations, self.translations, self.translations)]
        grid = threat.scaled(torch.cartesian_prod(*lines))
        return grid.expand(len(images), -1, -1)


@final
@checked
@dataclass(frozen=True)
class SpatialRandom(SpatialSearch):
    """The worst of some random rotations and shifts, uniform within the limits. Source: arXiv 1712.02779.

    Args:
        candidates_per_image: how many; 10 in the source.
    """

    candidates_per_image: int = 10

    def __post_init__(self) -> None:
        check_count("candidates_per_image", self.candidates_per_image)

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Random points of each image."""
        return self.candidates_per_image

    def candidates(self, threat: SpatialThreat, images: Tensor, source: RandomSource) -> Tensor:
        """Random points (B, n, 3)."""
        shape = (len(images), self.candidates_per_image, len(_LIMITS))
        return threat.scaled(2 * sample(torch.rand, shape, source, images.device) - 1)


def _line(count: int) -> Tensor:
    """Shares of a limit at equal distances from -1 to 1; 0 alone of one."""
    half = count // 2
    return torch.arange(-half, half + 1) / max(half, 1)
