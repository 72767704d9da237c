"""Randomised smoothing: a radius in l2 within which the vote of a network over noisy images does not change."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta, norm
from torch import Tensor

from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.plots import Curve, Distribution, Plot
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.settings import checked

# Noisy images drawn in one go, whatever the batch size, so that it does not decide which noise is drawn.
_BLOCK: Final = 50

# Stands for images of which no class is certified.
_ABSTAINED: Final = -1


@final
@checked
@dataclass(frozen=True)
class RandomizedSmoothing:
    """Measures `radius` (N,) in l2, certified for the smoothed classifier, not for the network itself.

    The smoothed classifier names the class that the network most often gives to an image with Gaussian noise. Of `n0`
    noisy images the most frequent class is chosen, of `n` others its share is bounded from below: p with confidence 1 -
    alpha (Clopper and Pearson). Where p > 1/2, no perturbation shorter than sigma · Φ⁻¹(p) changes the smoothed
    classifier's answer; elsewhere it abstains. The certificate of one image is wrong with probability alpha at most.

    Arrays: `prediction` (N,), -1 where it abstains; `abstained` (N,); `share` (N,), the bound p; `correct` (N,);
    `radius` (N,), 0 where it abstains or is wrong; `certified` (N, T), whether it is right and certified at each of
    `radii`.

    Costs n0 + n passes per image.

    Args:
        sigma: standard deviation of the noise, pixel units; networks should be trained with the same.
        n0: noisy images by which the class is chosen.
        n: noisy images by which its share is bounded; the largest radius is sigma · Φ⁻¹(alpha^(1/n)).
        alpha: probability that a certificate is wrong.
        radii: at which the certified accuracy is reported, pixel units in l2.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Raises:
        UserError: an impossible setting.

    Source: arXiv 1902.02918, theorem 1 and the procedure Certify of section 3.2.
    """

    sigma: float = 0.25
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    radii: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    images: int | None = None

    title: ClassVar = "smoothed classifier"
    means: ClassVar = ("correct", "radius", "abstained")

    def __post_init__(self) -> None:
        object.__setattr__(self, "radii", tuple(float(radius) for radius in self.radii))
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UserError(f"smoothing sigma must be positive, got {self.sigma}; 0.25 suits images in [0, 1]")
        for name in ("n0", "n"):
            if (count := getattr(self, name)) < 1:
                raise UserError(f"smoothing {name} must be at least 1, got {count}; the paper has n0=100, n=100000")
        if not 0 < self.alpha < 0.5:
            raise UserError(f"smoothing alpha must lie between 0 and 0.5, got {self.alpha}; 0.001 is usual")
        if not self.radii or min(self.radii) < 0 or list(self.radii) != sorted(set(self.radii)):
            raise UserError(
                f"smoothing radii must increase from 0, got {list(self.radii)}; write them as [0, 0.25, 0.5]"
            )

    @property
    def passes(self) -> int:
        """Network passes for each image."""
        return self.n0 + self.n

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Certified accuracy over the radius, and the distribution of radii."""
        accuracy = "certified accuracy (smoothed classifier)"
        curve = Curve(self.radii, ("certified",), "radius (ℓ2)", accuracy, f"σ = {self.sigma:g}")
        return (curve, Distribution("radius", "certified radius of the smoothed classifier (ℓ2)"))

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Certificate of each image.

        Raises:
            UserError: for unsuitable images or labels, or a network in training mode.
        """
        inputs.check()
        votes = [self._certify(inputs.take(slice(row, row + 1)), row) for row in range(len(inputs.images))]
        prediction = np.array([choice for choice, _ in votes], dtype=np.int64)
        share = lower_share(np.array([count for _, count in votes], dtype=np.int64), self.n, self.alpha)
        abstained = (share <= 0.5) | (prediction == _ABSTAINED)
        right = ~abstained & (prediction == inputs.labels.cpu().numpy())
        radius = np.where(right, self.sigma * norm.ppf(np.maximum(share, 0.5)), 0.0)
        return {
            "prediction": np.where(abstained, _ABSTAINED, prediction),
            "abstained": abstained,
            "share": share,
            "correct": right,
            "radius": radius,
            "certified": right[:, None] & (radius[:, None] >= np.array(self.radii)),
        }

    def _certify(self, one: MeasureInputs, before: int) -> tuple[int, int]:
        """The class chosen for one image, and how many of `n` other noisy images get it."""
        source = keyed_generator(one.seed, int(one.indices[0]), device=one.images.device)
        chosen = _votes(one, source, self.n0, self.sigma)
        if not chosen.any():  # no noisy image has finite logits
            return _ABSTAINED, 0
        choice = int(chosen.argmax())
        counted = _votes(one, source, self.n, self.sigma)
        one.notify(before + 1)
        return choice, int(counted[choice])


def _votes(one: MeasureInputs, source: torch.Generator, count: int, sigma: float) -> Tensor:
    """How many of `count` noisy copies of an image (1, C, H, W) get each class, (K,); non-finite logits are no vote."""
    blocks = max(1, one.batch_size // _BLOCK)
    total: Tensor | None = None
    for start in range(0, count, blocks * _BLOCK):
        size = min(blocks * _BLOCK, count - start)
        shapes = [(min(_BLOCK, size - at), *one.images.shape[1:]) for at in range(0, size, _BLOCK)]
        noise = torch.cat([torch.randn(shape, generator=source, device=source.device) for shape in shapes])
        logits = predict(one.network, one.images + sigma * noise)
        finite = torch.isfinite(logits).all(1)
        votes = torch.bincount(logits[finite].argmax(1), minlength=logits.shape[1])
        total = votes if total is None else total + votes
    assert total is not None  # there is at least one noisy image
    return total


def lower_share(successes: npt.NDArray[np.int64], trials: int, alpha: float) -> npt.NDArray[np.float64]:
    """Lower end, (N,), of the one-sided Clopper-Pearson interval of a share with confidence 1 - alpha.

    Examples:
        >>> lower_share(np.array([0, 1000]), 1000, 0.001).round(4)
        array([0.    , 0.9931])
    """
    bound = beta.ppf(alpha, np.maximum(successes, 1), trials - successes + 1)
    return np.where(successes == 0, 0.0, bound)
