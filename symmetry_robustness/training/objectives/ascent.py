"""Attacks of training scripts, as update rules of the package's engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from symmetry_robustness.attacks import GradientAttack, ThreatModel
from symmetry_robustness.attacks.base import Memory
from symmetry_robustness.attacks.losses import Loss
from symmetry_robustness.rng import RandomSource, sample

# Images (B, C, H, W) and a source of random numbers to a perturbation (B, C, H, W).
Noise = Callable[[Tensor, RandomSource], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class Ascent(GradientAttack):
    """Steepest ascent of any loss, begun at any noise.

    Args:
        steps: gradient steps.
        length: of a step, in pixel units.
        loss: to ascend, by name or as a function.
        noise: is added to the images first; None begins at the images.
    """

    steps: int
    length: float
    loss: str | Loss = "cross_entropy"
    noise: Noise | None = None

    @property
    def random_start(self) -> bool:  # type: ignore[override]
        """Whether there is noise."""
        return self.noise is not None

    def step_length(self, epsilon: Tensor) -> Tensor:
        """The length, (B,)."""
        return torch.full_like(epsilon, self.length)

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """Images with noise, inside the ball."""
        if self.noise is None:
            return {"iterate": images}
        return {"iterate": threat.project(images + self.noise(images, source), images, epsilon)}


def gaussian(deviation: float) -> Noise:
    """Independent normal noise of a standard deviation in pixel units."""
    return lambda images, source: deviation * sample(torch.randn, images.shape, source, images.device)


def uniform(radius: float) -> Noise:
    """Independent uniform noise between minus and plus a radius in pixel units."""
    return lambda images, source: radius * (2 * sample(torch.rand, images.shape, source, images.device) - 1)
