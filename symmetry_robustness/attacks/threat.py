"""What an attacker may do (norm, radius, bounds) and the algebra of the norm that every attack needs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.rng import RandomSource, draw
from symmetry_robustness.errors import UserError

NormName = Literal["linf", "l2"]


def parse_epsilon(value: float | str, name: str = "epsilon") -> float:
    """Read a length in pixel units, a number or a fraction such as "8/255".

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


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """View one value per image, (B,), so that it broadcasts against images (B, ...)."""
    return values.reshape(-1, *[1] * (images.dim() - 1))


class Norm(ABC):
    """The four things an attack asks of a norm; perturbations are (B, ...), radii and lengths (B,)."""

    @abstractmethod
    def length(self, perturbation: Tensor) -> Tensor:
        """Norm of each perturbation."""

    @abstractmethod
    def project(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Nearest perturbation (in the Euclidean sense) inside the ball."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Perturbation of norm one along which a linear function grows most; zero where the gradient is zero."""

    @abstractmethod
    def sample(self, shape: Sequence[int], source: RandomSource, device: torch.device | str) -> Tensor:
        """Perturbations drawn uniformly from the unit ball."""


@final
class Linf(Norm):
    """Largest absolute value."""

    def length(self, perturbation: Tensor) -> Tensor:
        """Largest absolute value."""
        return perturbation.abs().flatten(1).amax(1)

    def project(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Clamp each component."""
        bound = per_image(radius, perturbation)
        return torch.clamp(perturbation, -bound, bound)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Sign of each component."""
        return gradient.sign()

    def sample(self, shape: Sequence[int], source: RandomSource, device: torch.device | str) -> Tensor:
        """Independent uniform components."""
        return 2 * draw(torch.rand, shape, source, device) - 1


@final
class L2(Norm):
    """Euclidean length."""

    def length(self, perturbation: Tensor) -> Tensor:
        """Euclidean length."""
        length: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
        return length

    def project(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Shorten what is too long."""
        length = self.length(perturbation)
        factor = torch.where(length > radius, radius / length, torch.ones_like(length))
        return perturbation * per_image(factor, perturbation)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Gradient divided by its length."""
        # Dividing by the largest entry first keeps squares of tiny gradients from vanishing in float32.
        largest = gradient.abs().flatten(1).amax(1)
        scaled = gradient / per_image(torch.where(largest > 0, largest, torch.ones_like(largest)), gradient)
        length = self.length(scaled)
        return scaled / per_image(torch.where(length > 0, length, torch.ones_like(length)), gradient)

    def sample(self, shape: Sequence[int], source: RandomSource, device: torch.device | str) -> Tensor:
        """Uniform draws from the unit ball."""
        # A Gaussian gives the direction, its chi-square probability the uniform variable of the radius, so that
        # one draw per image is enough.
        gaussian = draw(torch.randn, shape, source, device)
        dimension = gaussian[0].numel() if len(gaussian) else 1
        return gaussian * per_image(ball_radius(self.length(gaussian), dimension), gaussian)


def ball_radius(length: Tensor, dimension: int) -> Tensor:
    """Factor that turns a standard Gaussian vector of this length, (B,), into a uniform draw from the unit ball."""
    half = torch.full_like(length, dimension / 2, dtype=torch.float64)
    uniform = torch.special.gammainc(half, length.double().square() / 2)
    radius: Tensor = uniform.pow(1 / dimension) / length.double()
    return radius.to(length.dtype)


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2()}


@final
@dataclass(frozen=True)
class ThreatModel:
    """Perturbations within `epsilon` of an image that keep its pixels within `bounds`.

    Args:
        norm: "linf" or "l2".
        epsilon: radius in pixel units of images in [0, 1].
        bounds: smallest and largest pixel value.
    """

    norm: NormName = "linf"
    epsilon: float = 8 / 255
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", parse_epsilon(self.epsilon))
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        find_norm(self.norm)

    @property
    def ball(self) -> Norm:
        """The algebra of the norm."""
        return NORMS[self.norm]


def find_norm(name: str) -> Norm:
    """Return the algebra of a norm by its name.

    Raises:
        UserError: where no such norm exists.
    """
    if name not in NORMS:
        raise UserError(f"norm must be one of {', '.join(NORMS)}, got {name!r}; choose one of them")
    return NORMS[name]


def check_bounds(bounds: Sequence[float]) -> tuple[float, float]:
    """Return bounds as a pair of floats.

    Raises:
        UserError: where they are not two increasing numbers.
    """
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise UserError(f"bounds must be two increasing numbers, got {list(bounds)}; images use [0.0, 1.0]")
    return float(bounds[0]), float(bounds[1])


def project(norm: Norm, adversarial: Tensor, images: Tensor, epsilon: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Move adversarial images (B, ...) into the ball of radius epsilon (B,) around images, then into the bounds.

    With images inside the bounds the second move shortens every component, so the result lies in both sets.
    """
    return torch.clamp(images + norm.project(adversarial - images, epsilon), *bounds)


def check_images(images: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Refuse images that an attack cannot be sound on.

    Raises:
        UserError: where images are not float32 (B, C, H, W) within the bounds.
    """
    if images.dtype != torch.float32:
        raise UserError(f"images must be float32, got {images.dtype}; convert them, uint8 by images.float() / 255")
    if images.dim() != 4:
        raise UserError(f"images must have the shape (B, C, H, W), got {tuple(images.shape)}; add the missing axes")
    if images.numel() == 0:
        return
    low, high = (float(value) for value in torch.aminmax(images))
    if low != low:
        raise UserError("images must be numbers, got NaN; check the data")
    if not (bounds[0] <= low and high <= bounds[1]):
        raise UserError(
            f"images must lie in [{bounds[0]:g}, {bounds[1]:g}], got [{low:.4g}, {high:.4g}]; "
            "leave normalisation to the network's first layer"
        )


@runtime_checkable
class Attack(Protocol):
    """What the evaluator calls: adversarial images (B, C, H, W) for images, true labels (B,) and a threat."""

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return adversarial images (B, C, H, W)."""
        ...
