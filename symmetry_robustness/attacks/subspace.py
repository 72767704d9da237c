"""Attacks whose perturbations lie in a linear subspace: low frequencies, or the span of given directions."""

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from symmetry_robustness.attacks.base import Memory, Pass, UpdateRule
from symmetry_robustness.attacks.derived import DerivedRule
from symmetry_robustness.attacks.threat import ThreatModel
from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource
from symmetry_robustness.settings import checked

_ORTHONORMAL: Final = 1e-4  # largest error of products of float32 directions


class Subspace(ABC):
    """A linear subspace of perturbations, the same for all images."""

    @abstractmethod
    def project(self, perturbation: Tensor) -> Tensor:
        """Nearest perturbations (B, C, H, W) inside the subspace, in the Euclidean sense.

        Raises:
            UserError: the subspace is one of perturbations of another shape.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Class and settings as plain values, for the report."""


@final
@checked
@dataclass(frozen=True)
class LowFrequencies(Subspace):
    """Each channel from the lowest frequencies of its cosine transform (DCT-II), `side` of them in each direction.

    Args:
        side: 1 for one value per channel; from the side of the image on it is the whole space.

    Examples:
        >>> LowFrequencies(1).project(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).flatten()
        tensor([3., 3., 3., 3.])
    """

    side: int = 8

    def __post_init__(self) -> None:
        check_count("side", self.side)

    def project(self, perturbation: Tensor) -> Tensor:
        """Leave out all higher frequencies of perturbations (B, C, H, W)."""
        height, width = perturbation.shape[-2:]
        rows, columns = (_low_pass(size, self.side).to(perturbation) for size in (height, width))
        if self.side < height:
            perturbation = rows @ perturbation
        return perturbation @ columns if self.side < width else perturbation

    def describe(self) -> dict[str, Any]:
        """Settings as plain values."""
        return {"class": type(self).__name__, "side": self.side}


@functools.lru_cache(maxsize=8)
def _low_pass(size: int, frequencies: int) -> Tensor:
    """Projection (size, size) of a line on its lowest frequencies."""
    waves = cosines(size)[:frequencies]
    return waves.T @ waves


def cosines(size: int) -> Tensor:
    """Orthonormal DCT-II basis (size, size), float64, one frequency per row, lowest first.

    Examples:
        >>> basis = cosines(5)
        >>> bool(torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64)))
        True
    """
    place = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves


@final
@checked
@dataclass(frozen=True, eq=False)
class Span(Subspace):
    """The span of orthonormal directions.

    Args:
        directions: (r, C, H, W); those of `principal_components`, for instance.

    Raises:
        UserError: they are not orthonormal.
    """

    directions: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.directions, Tensor) or self.directions.dim() != 4:
            raise UserError(f"directions must be a tensor (r, C, H, W), got {self.directions!r:.60}; see Span")
        flat = self.directions.flatten(1).double()
        error = (flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).abs()
        if not len(flat) or not float(error.max()) <= _ORTHONORMAL:
            raise UserError(
                f"directions of shape {tuple(self.directions.shape)} are not orthonormal; take the first factor of "
                "torch.linalg.qr, or principal_components"
            )

    def project(self, perturbation: Tensor) -> Tensor:
        """The part of perturbations (B, C, H, W) along the directions.

        Raises:
            UserError: for perturbations of another shape.
        """
        if perturbation.shape[1:] != self.directions.shape[1:]:
            shapes = f"{tuple(self.directions.shape[1:])}, images {tuple(perturbation.shape[1:])}"
            raise UserError(f"directions have the shape {shapes}; take those of such images")
        basis = self.directions.to(perturbation).flatten(1)
        return (perturbation.flatten(1) @ basis.T @ basis).reshape(perturbation.shape)

    def describe(self) -> dict[str, Any]:
        """Number of directions, and a digest of their values."""
        content = self.directions.detach().cpu().contiguous().numpy().tobytes()
        digest = hashlib.sha256(content).hexdigest()[:12]
        return {"class": type(self).__name__, "directions": len(self.directions), "digest": digest}


def principal_components(images: Tensor, count: int) -> Span:
    """The directions along which images vary most.

    Args:
        images: (N, C, H, W), of training or validation, not those that are attacked.
        count: of directions; at most N - 1, and the number of values of an image.

    Raises:
        UserError: so many directions cannot be had of so many images.
    """
    check_count("count", count)
    most = min(len(images) - 1, images[0].numel()) if len(images) else 0
    if count > most:
        raise UserError(f"count must be at most {most} for images {tuple(images.shape)}, got {count}; give more images")
    flat = images.double().flatten(1)
    directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:count]
    return Span(directions.to(images.dtype).reshape(count, *images.shape[1:]))


@final
@checked
@dataclass(frozen=True)
class InSubspace(DerivedRule):
    """An attack whose gradients and perturbations are projected on a subspace.

    After each step the projections on the subspace and into the threat alternate, the threat's last, so that every
    iterate lies in the ball and the bounds, and close to the subspace: an l2 perturbation that meets no bound lies in
    it exactly, an linf one leaves it by its `residual`. On the whole space it is the attack itself. A reconstruction:
    arXiv 2601.23102 states the idea of a compact subspace, for point clouds and without formulas.

    Args:
        attack: PGD, FGSM or another rule that follows a gradient in each step.
        subspace: in which perturbations lie.
        alternations: how often both projections are made after a step.

    Examples:
        >>> from torch import nn
        >>> from symmetry_robustness.attacks import PGD
        >>> images, labels = torch.full((1, 3, 2, 2), 0.5), torch.tensor([0])
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
        >>> attack = InSubspace(PGD(steps=5), LowFrequencies(1))
        >>> attacked = attack(network, images, labels, ThreatModel("l2", 0.1))
        >>> bool((attacked.amax((2, 3)) - attacked.amin((2, 3)) < 1e-6).all())  # one value per channel
        True
    """

    attack: UpdateRule
    subspace: Subspace
    alternations: int = 5

    def __post_init__(self) -> None:
        if not callable(getattr(self.subspace, "project", None)):
            raise UserError(f"subspace must be one, got {self.subspace!r}; give LowFrequencies or Span")
        check_count("alternations", self.alternations)
        super().__post_init__()

    def describe(self) -> dict[str, Any]:
        """Settings as plain values."""
        return {**super().describe(), "subspace": self.subspace.describe(), "alternations": self.alternations}

    def residual(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """Euclidean length, (B,), of the part of each perturbation (B, C, H, W) outside of the subspace."""
        perturbation = adversarial - images
        length: Tensor = torch.linalg.vector_norm(
            (perturbation - self.subspace.project(perturbation)).flatten(1), dim=1
        )
        return length

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """As the attack starts, projected."""
        memory = self.attack.start(threat, images, epsilon, source)
        return memory | {"iterate": self._projected(threat, memory["iterate"], images, epsilon)}

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """As the attack steps along the projected gradient, projected."""
        gradient = self.subspace.project(torch.nan_to_num(result.gradient, nan=0.0, posinf=0.0, neginf=0.0))
        moved = self.attack.step(threat, result._replace(gradient=gradient), memory)
        return moved | {"iterate": self._projected(threat, moved["iterate"], result.images, result.epsilon)}

    def _projected(self, threat: ThreatModel, iterate: Tensor, images: Tensor, epsilon: Tensor) -> Tensor:
        for _ in range(self.alternations):
            iterate = threat.project(images + self.subspace.project(iterate - images), images, epsilon)
        return iterate
