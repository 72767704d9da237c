"""Threat models: which changes of an image an attack may use, up to a size."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import torch
from torch import Tensor

from symmetry_robustness.attacks.norms import NORMS, Norm, NormName, find_norm
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource

# Float32 rounding of images and of the sums in a norm stays well below this, relative to a ball of radius one.
TOLERANCE: Final = 1e-6


def parse_epsilon(value: float | str, name: str = "epsilon") -> float:
    """Read a length in pixel units, a number or a fraction such as "8/255".

    Examples:
        >>> parse_epsilon("51/255")
        0.2

    Raises:
        UserError: where `value` is not a positive, finite number.
    """
    numerator, slash, denominator = str(value).partition("/")
    try:
        number = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise UserError(f'{name} must be a number or a fraction, got {value!r}; write 0.03 or "8/255"') from None
    if not (math.isfinite(number) and number > 0):
        remedy = "for clean accuracy leave the attacks empty" if name == "epsilon" else "give a length above 0"
        raise UserError(f"{name} must be positive and finite, got {value}; {remedy}")
    return number


def check_bounds(bounds: Sequence[float]) -> tuple[float, float]:
    """Return bounds as a pair of floats.

    Raises:
        UserError: where they are not two increasing numbers.
    """
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise UserError(f"bounds must be two increasing numbers, got {bounds!r}; images use [0.0, 1.0]")
    return low, high


class UsualSizes(NamedTuple):
    """Between which sizes the largest of an evaluation usually lies, and a clause that says so."""

    low: float
    high: float
    clause: str


class Threat(ABC):
    """The changes of an image that an attack may use: a set for each size, larger sets for larger sizes.

    An attack returns *points* of the threat, one for each image, and the threat makes the images of them. A point is
    the changed image itself where a threat allows perturbations of pixels, and whatever describes the change elsewhere,
    so that an evaluation can measure each point and needs no norm for it.
    """

    norm: str
    """Name in results: of the norm, or of the kind of change."""
    epsilon: float
    """Size up to which changes are allowed."""
    bounds: tuple[float, float]
    """Smallest and largest pixel value."""

    @property
    def geometry(self) -> Norm | None:
        """Operations of the norm; None where changes are no perturbations of pixels."""
        return None

    @abstractmethod
    def point_shape(self, images: Tensor) -> tuple[int, ...]:
        """Shape of the points of images (B, C, H, W), the first axis being the image."""

    @abstractmethod
    def realize(self, points: Tensor, images: Tensor) -> Tensor:
        """The changed images (B, C, H, W) of points (B, ...) of images (B, C, H, W)."""

    @abstractmethod
    def distance(self, points: Tensor, images: Tensor) -> Tensor:
        """Size of each change, (B,) float64."""

    @abstractmethod
    def excess(self, points: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Amount, (B,) float64, by which each change leaves the threat; at most 0 inside, infinite if not finite.

        Args:
            points: (B, ...).
            images: (B, C, H, W).
            epsilon: (B,) sizes in place of that of the threat.
        """

    @abstractmethod
    def far_points(self, images: Tensor, source: RandomSource) -> Tensor:
        """Random points (B, ...) of images (B, C, H, W) that lie far out, for a search without aim."""

    @abstractmethod
    def usual_sizes(self, dimension: int) -> UsualSizes:
        """Usual sizes for images of so many values."""


# Average changes of a pixel value between which the largest epsilon usually lies: from half a grey level in linf, less
# in norms that may gather it in a few pixels, to 1/2, with which every image can become grey.
_SMALLEST: Final = {"linf": 0.5 / 255, "l2": 0.2 / 255, "l1": 0.05 / 255}
_LARGEST: Final = 0.5


@final
@dataclass(frozen=True)
class ThreatModel(Threat):
    """Perturbations within `epsilon` of an image that keep its pixels within `bounds`.

    Methods take a radius per image, (B,), in place of `epsilon` where a batch mixes several.

    Args:
        norm: "linf", "l2" or "l1".
        epsilon: radius in pixel units of images in [0, 1], a number or a fraction such as "8/255".
        bounds: smallest and largest pixel value.

    Examples:
        >>> threat = ThreatModel("linf", "51/255")
        >>> threat.epsilon
        0.2
        >>> threat.project(torch.tensor([[0.9, -0.3]]), torch.tensor([[0.5, 0.1]]))
        tensor([[0.7000, 0.0000]])
    """

    norm: NormName = "linf"
    epsilon: float = 8 / 255
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", parse_epsilon(self.epsilon))
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        find_norm(self.norm)

    @property
    def geometry(self) -> Norm:
        """Operations of the norm."""
        return NORMS[self.norm]

    def point_shape(self, images: Tensor) -> tuple[int, ...]:
        """That of the images: a point is the changed image."""
        return tuple(images.shape)

    def realize(self, points: Tensor, images: Tensor) -> Tensor:
        """The points themselves."""
        return points

    def far_points(self, images: Tensor, source: RandomSource) -> Tensor:
        """Random corners of the ball (random points of its edge in l2), clipped to the bounds."""
        noise = self.geometry.steepest_direction(self.geometry.sample(images.shape, source, images.device))
        return self.project(images + self.epsilon * noise, images)

    def usual_sizes(self, dimension: int) -> UsualSizes:
        """Radii by the average change of a pixel value that they allow."""
        # The length of a change by one in every pixel value; the quotient is an average change of a pixel value.
        whole = {"linf": 1.0, "l2": dimension**0.5, "l1": float(dimension)}[self.norm]
        low, high = _SMALLEST[self.norm] * whole, _LARGEST * whole
        return UsualSizes(low, high, f"{low:.2g} to {high:.3g} is usual for images of {dimension} values in [0, 1]")

    def project(self, adversarial: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Move adversarial images (B, ...) into the ball around images, then into the bounds.

        With images inside the bounds the second move shortens every component, so the result lies in both sets.
        """
        perturbation = self.geometry.project(adversarial - images, self._radius(images, epsilon))
        return torch.clamp(images + perturbation, *self.bounds)

    def distance(self, points: Tensor, images: Tensor) -> Tensor:
        """Norm of each perturbation, (B,), in float64, so that rounding does not look like leaving the ball."""
        return self.geometry.length(points.double() - images.double())

    def excess(self, points: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Amount, (B,) float64, by which each changed image leaves the ball or the bounds; at most 0 inside both.

        Infinite where a changed image is not finite.
        """
        low, high = self.bounds
        outside = torch.maximum(low - points, points - high).flatten(1).amax(1).double()
        leaving = self.distance(points, images) - self._radius(images, epsilon).double()
        return torch.maximum(leaving, outside).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)

    def _radius(self, images: Tensor, epsilon: Tensor | None) -> Tensor:
        return images.new_full((len(images),), self.epsilon) if epsilon is None else epsilon
