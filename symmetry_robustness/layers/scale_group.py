"""Hermite–Gaussian functions: one set of filters, sampled at several scales and turned by quarters."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.validation import require_positive

# Radius of a filter in units of σ. Cut off at 2 σ, the equivariance error of a lifting convolution is 0.03 in
# place of 0.002; at 3 σ it is hardly less.
REACH = 2.5
# Beyond any image of ours; bounds the memory that a file can ask for.
MAX_SCALES, MAX_RADIUS = 16, 31


@dataclass(frozen=True)
class ScaleGroup:
    """The scales, and the quarter turns if any, at which a layer sees every filter.

    The defaults give filters of 5, 7 and 9 pixels with nine coefficients, as many as a plain 3×3 filter has. A smaller
    sigma makes functions too fine for the pixel grid, a larger one makes filters that cost more.

    Args:
        scales: number of scales.
        rotations: 1, or 4 for quarter turns at every scale.
        step: ratio of neighbouring scales, above 1.
        sigma: standard deviation of the Gaussian at the smallest scale, in pixels.
        degree: of the highest Hermite polynomial along each axis; a filter has (degree + 1)² coefficients.

    Raises:
        UserError: an invalid setting, or filters that are too large or too small for it.
    """

    scales: int = 3
    rotations: int = 1
    step: float = 2**0.5
    sigma: float = 0.8
    degree: int = 2

    def __post_init__(self) -> None:
        require_positive(scales=self.scales, degree=self.degree)
        if self.rotations not in (1, 4):
            raise UserError(f"rotations must be 1 or 4, got {self.rotations!r}; other angles need a rotation layer")
        if not (_is_number(self.step) and self.step > 1):
            raise UserError(f"step must be a number above 1, got {self.step!r}; choose one such as 1.414")
        if not (_is_number(self.sigma) and self.sigma > 0):
            raise UserError(f"sigma must be a positive number, got {self.sigma!r}; choose one such as 0.8")
        growth = (self.scales - 1) * math.log(self.step)
        if self.scales > MAX_SCALES or growth + math.log(self.sigma * REACH) > math.log(MAX_RADIUS):
            raise UserError(
                f"scales must be at most {MAX_SCALES} and end at filters of {2 * MAX_RADIUS + 1} pixels, "
                f"got {self.scales} with step {self.step} and sigma {self.sigma}; choose fewer or smaller ones"
            )
        if self.degree > 2 * self.radii[0]:
            raise UserError(
                f"degree must be at most {2 * self.radii[0]} at sigma {self.sigma}, got {self.degree}; "
                "choose a lower degree or a larger sigma"
            )

    @property
    def order(self) -> int:
        """Channels of a field: scales · rotations, the turn changing fastest."""
        return self.rotations * self.scales

    @property
    def functions(self) -> int:
        """Number of basis functions."""
        return (self.degree + 1) ** 2

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Standard deviation of the Gaussian at each scale, in pixels."""
        return tuple(self.sigma * self.step**scale for scale in range(self.scales))

    @property
    def radii(self) -> tuple[int, ...]:
        """A filter at each scale has 2 · radius + 1 pixels along each axis."""
        return tuple(max(1, math.floor(REACH * sigma + 0.5)) for sigma in self.sigmas)


@functools.cache
def hermite_basis(group: ScaleGroup) -> tuple[NDArray[np.float64], ...]:
    """Sample the basis functions at each scale; computed once per process, never to be changed in place.

    At scale σ they are ψ(x/σ, y/σ)/σ² with ψ(x, y) = h_n(x) h_m(y), products of orthonormal Hermite functions. So the
    same coefficients make the same filter at each scale, with the same response to an image scaled alike.

    Returns:
        For each scale an array (functions, rotations, k, k). Over the scales, the mean of each function's squared norm
        is 1, so that coefficients of variance 1/functions answer white noise with its own variance, on average.

    Source: Sosnovik et al. 2020, arXiv 1910.11093, sec. 4 and 5; the span of their basis, orthonormal.
    """
    sampled = [_sample(sigma, radius, group.degree) for sigma, radius in zip(group.sigmas, group.radii, strict=True)]
    energy = np.mean([np.square(functions).sum(axis=(1, 2)) for functions in sampled], axis=0)
    normed = [functions / np.sqrt(energy)[:, None, None] for functions in sampled]
    return tuple(
        np.stack([np.rot90(functions, quarter, axes=(1, 2)) for quarter in range(group.rotations)], axis=1)
        for functions in normed
    )


def _sample(sigma: float, radius: int, degree: int) -> NDArray[np.float64]:
    """The products of Hermite functions along both axes at one scale, ((degree + 1)², k, k)."""
    position = np.arange(-radius, radius + 1) / sigma
    along = [np.exp(-np.square(position) / 2) / math.pi**0.25]
    for order in range(degree):  # h_{n+1} = √(2/(n+1)) x h_n - √(n/(n+1)) h_{n-1}
        following = math.sqrt(2 / (order + 1)) * position * along[-1]
        along.append(following - math.sqrt(order / (order + 1)) * along[-2] if order else following)
    return np.stack([np.outer(vertical, across) for vertical in along for across in along]) / sigma**2


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
