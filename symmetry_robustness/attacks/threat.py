"""Threat models: norm, radius and pixel bounds of the perturbations that an attack may use."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from symmetry_robustness.attacks.norms import NORMS, Norm, NormName, find_norm
from symmetry_robustness.errors import UserError

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
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise UserError(f"bounds must be two increasing numbers, got {list(bounds)}; images use [0.0, 1.0]")
    return float(bounds[0]), float(bounds[1])


@final
@dataclass(frozen=True)
class ThreatModel:
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

    def project(self, adversarial: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Move adversarial images (B, ...) into the ball around images, then into the bounds.

        With images inside the bounds the second move shortens every component, so the result lies in both sets.
        """
        perturbation = self.geometry.project(adversarial - images, self._radius(images, epsilon))
        return torch.clamp(images + perturbation, *self.bounds)

    def distance(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """Norm of each perturbation, (B,), in float64, so that rounding does not look like leaving the ball."""
        return self.geometry.length(adversarial.double() - images.double())

    def excess(self, adversarial: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Amount, (B,) float64, by which each adversarial image leaves the ball or the bounds; at most 0 inside both.

        Infinite where an adversarial image is not finite.
        """
        low, high = self.bounds
        outside = torch.maximum(low - adversarial, adversarial - high).flatten(1).amax(1).double()
        leaving = self.distance(adversarial, images) - self._radius(images, epsilon).double()
        return torch.maximum(leaving, outside).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)

    def _radius(self, images: Tensor, epsilon: Tensor | None) -> Tensor:
        return images.new_full((len(images),), self.epsilon) if epsilon is None else epsilon
