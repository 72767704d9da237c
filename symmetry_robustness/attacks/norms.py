"""Norms of perturbations: length, projection, steepest direction, uniform samples and dual norm."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource, sample

NormName = Literal["linf", "l2", "l1"]

# Relative margin of the l1 projection: float32 rounding of three thousand pixels stays below it.
_L1_MARGIN = 1e-5


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """View one value per image, (B,), so that it broadcasts against images (B, ...)."""
    return values.reshape(-1, *[1] * (images.dim() - 1))


class Norm(ABC):
    """Operations of one norm; perturbations are (B, ...), radii and lengths (B,)."""

    is_sparse = False
    """Whether a steepest direction changes a single component."""

    @property
    @abstractmethod
    def dual(self) -> "Norm":
        """Norm of gradients: the largest growth of a linear function over the unit ball."""

    @abstractmethod
    def length(self, perturbation: Tensor) -> Tensor:
        """Norm of each perturbation."""

    @abstractmethod
    def project(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Nearest perturbation (in the Euclidean sense) inside the ball."""

    @abstractmethod
    def steepest_direction(self, gradient: Tensor) -> Tensor:
        """Perturbation of norm one along which a linear function grows most; zero where the gradient is zero."""

    @abstractmethod
    def sample(self, shape: Sequence[int], source: RandomSource, device: torch.device | str) -> Tensor:
        """Perturbations drawn uniformly from the unit ball."""


@final
class Linf(Norm):
    """Largest absolute value."""

    @property
    def dual(self) -> Norm:
        """The l1 norm."""
        return NORMS["l1"]

    def length(self, perturbation: Tensor) -> Tensor:
        """Largest absolute value."""
        return perturbation.abs().flatten(1).amax(1)

    def project(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Clamp each component."""
        bound = per_image(radius, perturbation)
        return torch.clamp(perturbation, -bound, bound)

    def steepest_direction(self, gradient: Tensor) -> Tensor:
        """Sign of each component."""
        return gradient.sign()

    def sample(self, shape: Sequence[int], source: RandomSource, device: torch.device | str) -> Tensor:
        """Independent uniform components."""
        return 2 * sample(torch.rand, shape, source, device) - 1


@final
class L2(Norm):
    """Euclidean length."""

    @property
    def dual(self) -> Norm:
        """The l2 norm itself."""
        return self

    def length(self, perturbation: Tensor) -> Tensor:
        """Euclidean length."""
        length: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
        return length

    def project(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Scale perturbations that are too long to the radius."""
        length = self.length(perturbation)
        factor = torch.where(length > radius, radius / length, torch.ones_like(length))
        return perturbation * per_image(factor, perturbation)

    def steepest_direction(self, gradient: Tensor) -> Tensor:
        """Gradient divided by its length."""
        # Dividing by the largest entry first keeps squares of tiny gradients from vanishing in float32.
        largest = gradient.abs().flatten(1).amax(1)
        scaled = gradient / per_image(torch.where(largest > 0, largest, torch.ones_like(largest)), gradient)
        length = self.length(scaled)
        return scaled / per_image(torch.where(length > 0, length, torch.ones_like(length)), gradient)

    def sample(self, shape: Sequence[int], source: RandomSource, device: torch.device | str) -> Tensor:
        """Gaussian directions with the radius that makes the draw uniform in the ball."""
        # The chi-square probability of the Gaussian's length is the uniform variable of the radius, so that one draw
        # per image is enough.
        gaussian = sample(torch.randn, shape, source, device)
        length, dimension = self.length(gaussian), gaussian[0].numel() if len(gaussian) else 1
        half = torch.full_like(length, dimension / 2, dtype=torch.float64)
        uniform = torch.special.gammainc(half, length.double().square() / 2)
        factor: Tensor = uniform.pow(1 / dimension) / length.double()
        return gaussian * per_image(factor.to(length.dtype), gaussian)


@final
class L1(Norm):
    """Sum of absolute values."""

    is_sparse = True

    @property
    def dual(self) -> Norm:
        """The linf norm."""
        return NORMS["linf"]

    def length(self, perturbation: Tensor) -> Tensor:
        """Sum of absolute values."""
        return perturbation.abs().flatten(1).sum(1)

    def project(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Reduce all components by one threshold. Source: Duchi et al. 2008, figure 1."""
        size = perturbation.abs().flatten(1).double()
        largest = size.sort(1, descending=True).values
        target = radius.double()[:, None] * (1 - _L1_MARGIN)
        surplus = largest.cumsum(1) - target
        rank = torch.arange(1, size.shape[1] + 1, device=size.device)
        count = (largest * rank > surplus).sum(1, keepdim=True)
        threshold = (surplus.gather(1, count - 1) / count).clamp_min(0)
        threshold = torch.where(size.sum(1, keepdim=True) > target, threshold, 0.0)
        reduced = (size - threshold).clamp_min(0).to(perturbation.dtype).reshape(perturbation.shape)
        return perturbation.sign() * reduced

    def steepest_direction(self, gradient: Tensor) -> Tensor:
        """Sign of the largest component, zero elsewhere."""
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).reshape(gradient.shape)

    def sample(self, shape: Sequence[int], source: RandomSource, device: torch.device | str) -> Tensor:
        """Signed exponential variables, divided by the sum of themselves and one more, are uniform in the ball."""
        size = sample(_exponential, shape, source, device)
        extra = sample(_exponential, shape[:1], source, device)
        sign = sample(_bits, shape, source, device) * 2 - 1
        return size * sign / per_image(size.flatten(1).sum(1) + extra, size)


def _exponential(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.empty(tuple(shape), device=device).exponential_(generator=generator)


def _bits(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randint(0, 2, tuple(shape), generator=generator, device=device)


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1()}


def find_norm(name: str) -> Norm:
    """Return a norm by its name.

    Raises:
        UserError: where no such norm exists.
    """
    if not isinstance(name, str) or name not in NORMS:
        raise UserError(f"norm must be one of {', '.join(NORMS)}, got {name!r}; choose one of them")
    return NORMS[name]
