"""Radius of the largest ball around an image in which linear relaxation proves that the prediction stays."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.bounds.graph import Graph, trace, values_at
from symmetry_robustness.bounds.relaxation import (
    Balls,
    Method,
    Norm,
    first_norms,
    margin_bounds,
    margins_and_slopes,
    refinable,
)
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.plots import Distribution
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.settings import checked

# From the cheapest to the best.
_METHODS: Final[Sequence[Method]] = ("interval", "crown_ibp", "crown")

# Inputs of nonlinear operations behind the first ones, up to which `auto` bounds each by CROWN.
_SMALL: Final = 4096

# Smallest radius that is tried, in pixel units.
_SMALLEST: Final = 1e-7

# Relative distance of the first trials from what a linear network would have: they find its radius at once.
_NEAR: Final = 2e-6

# And if a linear network's margin is so small that rounding counts, what the second trial is shorter by.
_SLIGHTLY: Final = 8e-6

# Growth from one trial to the next while the bound holds.
_GROWTH: Final = 4.0

# Trials of one image at most; ten are usual.
_TRIALS: Final = 60

# Largest difference, relative to the largest logit, of the traced network's float64 logits from the network's own.
_AGREEMENT: Final = 1e-3


@final
@checked
@dataclass(frozen=True)
class CertifiedRadius:
    """Measures `radius` (N,), in which no perturbation changes the prediction, proven by linear relaxation.

    The radius is found by trials between the largest that was proven and the smallest that was not. An image that is
    misclassified has the radius 0; so has one for which even 1e-7 is not proven. `interval` (N,) is the radius by
    intervals alone, which is never larger; `saturated` (N,) marks images for which `largest` is proven, and `method`
    (N,) says what was used.

    A proof holds for the network in exact arithmetic, with a margin for float32's rounding (`bounds.relaxation`).
    Operations that are known: convolution, batch norm, linear, ReLU, maximum and average pools, maximum over
    channels, sums, concatenation, constant factors, bilinear resizing, and what only moves numbers.

    Costs at each of about ten trials: "interval" two forward passes; "crown_ibp" in addition one backward pass for
    each other class; "crown" in addition two backward passes for each input of a nonlinear operation that intervals
    leave undecided. All in float64.

    Args:
        norm: "linf" or "l2", of the ball.
        method: "interval", "crown_ibp" (intervals, and CROWN for the logits), "crown" (CROWN for every layer), or
            "auto": the last for networks with up to 4,096 inputs of nonlinear operations behind the first ones,
            "crown_ibp" for others.
        clip: whether perturbed pixels stay inside [0, 1], as those of attacks do; used in linf, where it proves more.
        largest: cap of the radius, pixel units.
        tolerance: relative distance between a proven radius and one that is not.
        batch_size: images that are bounded together; None for that of the protocol.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Raises:
        UserError: an unknown norm or method, or a number that is not positive.

    Source: arXiv 1810.12715 (intervals), arXiv 1811.00866 (CROWN).
    """

    norm: Norm = "linf"
    method: Literal["auto", "interval", "crown_ibp", "crown"] = "auto"
    clip: bool = True
    largest: float = 5.0
    tolerance: float = 1e-3
    batch_size: int | None = None
    images: int | None = None

    title: ClassVar = "certified"
    means: ClassVar = ("radius",)
    headline: ClassVar = "radius"
    lower_bound: ClassVar = "radius"
    proven: ClassVar = True
    passes: ClassVar = 512  # a shard of a few images, because CROWN takes seconds for each
    plots: ClassVar = (Distribution("radius", "certified radius"),)

    def __post_init__(self) -> None:
        for name, values in {"norm": ("linf", "l2"), "method": ("auto", "interval", "crown_ibp", "crown")}.items():
            if (value := getattr(self, name)) not in values:
                raise UserError(
                    f"certified {name} must be one of {', '.join(values)}, got {value!r}; choose one of them"
                )
        if not (math.isfinite(self.largest) and self.largest > _SMALLEST):
            raise UserError(f"certified largest must be above {_SMALLEST:g}, got {self.largest}; 5 is usual in l2")
        if not 1e-6 <= self.tolerance < 1:
            raise UserError(f"certified tolerance must lie in [1e-6, 1), got {self.tolerance}; 1e-3 is the default")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"certified batch_size must be at least 1, got {self.batch_size}; leave it out")

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Radius of each image.

        Raises:
            UserError: for unsuitable images or labels, a network in training mode, or one whose operations have no
                known bounds.
        """
        inputs.check()
        inputs = inputs._replace(batch_size=self.batch_size or inputs.batch_size)
        graph = trace(inputs.network, inputs.images)
        method = self.chosen_method(graph)
        norms = first_norms(graph, self.norm, inputs.images.device)
        found = np.zeros((2, len(inputs.images)))
        start = 0
        for batch in inputs.batches():
            right = standing(batch.network, graph, batch.images, batch.labels)
            rows = start + right.nonzero()[:, 0].cpu().numpy()
            images, labels = batch.images[right].double(), batch.labels[right]
            found[:, rows] = self._radii(graph, images, labels, method, norms).cpu().numpy()
            start += len(batch.images)
        return {
            "radius": found[1],
            "interval": found[0],
            "saturated": found[1] >= self.largest,
            "method": np.full(found.shape[1], method),
        }

    def chosen_method(self, graph: Graph) -> Method:
        """The method, chosen by the size of the network where it is "auto"."""
        if self.method != "auto":
            return self.method
        return "crown" if refinable(graph) <= _SMALL else "crown_ibp"

    def _radii(
        self, graph: Graph, images: Tensor, labels: Tensor, method: Method, norms: Mapping[int, Tensor]
    ) -> Tensor:
        """Radii by intervals and by the method, (2, N), of images (N, C, H, W) that are classified correctly."""
        if not len(images):
            return images.new_zeros((2, 0))
        margins, slopes = margins_and_slopes(graph, images, labels, self.norm)
        guess = (margins / slopes).nan_to_num(self.largest).amin(1).clamp(_SMALLEST, self.largest)

        def search(how: Method, known: Tensor) -> Tensor:
            def bound(rows: Tensor, radii: Tensor) -> Tensor:
                balls = Balls(images[rows], radii, self.norm, self.clip)
                return margin_bounds(graph, balls, labels[rows], how, norms).amin(1)

            # Intervals come down from the radius of a linear network, CROWN goes up: larger balls cost it more.
            first = guess if how == "interval" else (_GROWTH * known).clamp_min(10 * _SMALLEST)
            return largest_proven(bound, known, guess, first, self.largest, self.tolerance)

        found = [search("interval", torch.zeros_like(guess))]
        for how in _METHODS[1 : _METHODS.index(method) + 1]:  # each starts where the cheaper one ended
            found.append(search(how, found[-1]))
        return torch.stack([found[0], found[-1]])


def standing(network: nn.Module, graph: Graph, images: Tensor, labels: Tensor) -> Tensor:
    """Which images, (N,), the network and its traced form both classify correctly.

    Raises:
        UserError: where the two do not have the same logits.
    """
    logits = predict(network, images).double()
    exact = values_at(graph, images)
    finite = torch.isfinite(logits).all(1) & torch.isfinite(exact).all(1)
    size = logits[finite].abs().amax() if bool(finite.any()) else 0.0
    if bool(((logits - exact)[finite].abs() > _AGREEMENT * size).any()):
        raise UserError("network decides by the image which operations it applies; leave certified bounds out")
    return finite & (logits.argmax(1) == labels) & (exact.argmax(1) == labels)


def largest_proven(
    bound: Callable[[Tensor, Tensor], Tensor],
    known: Tensor,
    guess: Tensor,
    first: Tensor,
    largest: float,
    tolerance: float,
) -> Tensor:
    """The largest radius of each image, (N,), for which a bound was found not to be negative.

    Each image has its own trials: downwards from the first in growing steps where nothing is proven, upwards from what
    is; then between what is proven and what is not, by the Illinois rule once they are near.

    Args:
        bound: numbers of some images (M,) and radii (M,) to bounds (M,).
        known: (N,) radii that are proven; 0 for none.
        guess: (N,) radii that a linear network would have.
        first: (N,) radii that are tried first, unless they are beyond the guess.
        largest: radius up to which is tried.
        tolerance: relative distance at which trials end.
    """
    low, high = known.clone(), torch.full_like(known, np.inf)
    below, above = torch.full_like(known, np.nan), torch.full_like(known, np.nan)  # bounds there
    failed = torch.zeros_like(known)
    for _ in range(_TRIALS):
        active = (low < largest) & (low < (1 - tolerance) * high) & (high > _SMALLEST)
        rows = active.nonzero()[:, 0]
        if not len(rows):
            break
        radii = _next_trial(low[rows], high[rows], below[rows], above[rows], guess[rows], first[rows], failed[rows])
        radii = radii.clamp(_SMALLEST, largest)
        value = bound(rows, radii)
        proven = value > 0
        up, down = rows[proven], rows[~proven]
        low[up], below[up] = radii[proven], value[proven]
        high[down], above[down] = radii[~proven], value[~proven]
        # The Illinois rule: the end that stays counts half, so that it moves as well.
        above[up], below[down] = above[up] / 2, below[down] / 2
        failed[down] += 1
    return low


def _next_trial(
    low: Tensor, high: Tensor, below: Tensor, above: Tensor, guess: Tensor, first: Tensor, failed: Tensor
) -> Tensor:
    """The next radius of images (M,), between their ends, or beyond the one that they have."""
    share = (below / (below - above)).nan_to_num(0.5).clamp(_NEAR, 1 - _NEAR)
    between = torch.where(high > 4 * low, (low * high).sqrt(), low + share * (high - low))
    near, past = guess * (1 - _NEAR), guess * (1 + _NEAR)
    below_guess = torch.minimum(torch.maximum(first, _GROWTH * low), near)
    upward = torch.where(low < guess * (1 - 2 * _NEAR), below_guess, torch.where(low < guess, past, _GROWTH * low))
    downward = torch.where(failed == 1, torch.maximum(high - _SLIGHTLY, high / 2), high / 2**failed)
    return torch.where(torch.isinf(high), upward, torch.where(low > 0, between, downward))
