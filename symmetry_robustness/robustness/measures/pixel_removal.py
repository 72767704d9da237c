"""How much of an image can be removed before the prediction changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.plots import Distribution, Panel
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class RemovalTolerance:
    """Measures `value` (N,), the largest share of input values that can be zero before the prediction changes.

    The shares 1/levels, 2/levels, ..., 1 are tried in turn, each removing more of the same random order of values, and
    an image is done at the first change: what a larger share would do does not count. The result is a multiple of
    1/levels, 0 where the first level changes the prediction and 1 where nothing does. `removed` (k, C, H, W) are the
    first images without the values that they tolerate to lose.

    Costs at most 1 + levels passes per image, fewer where it breaks early.

    Args:
        levels: number of shares that are tried; the resolution of the result.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Raises:
        UserError: where there are no levels.

    Source: arXiv 2510.16171, released scripts.
    """

    levels: int = 20
    images: int | None = None

    plots: ClassVar = (
        Panel("removed", "value", "removed"),
        Distribution("value", "share of values removed"),
    )

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise UserError(f"levels must be at least 1, got {self.levels}; 20 levels resolve steps of 5 %")

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Tolerance of each image."""
        inputs.check()
        parts = [self._tolerance(batch) for batch in inputs.batches()]
        value = torch.cat(parts) if parts else inputs.images.new_zeros(0)
        found = {"value": value.double().cpu().numpy()}
        if shown := min(inputs.keep, len(value)):
            first = inputs.take(slice(shown))
            ranks = removal_ranks(first.images, first.indices, inputs.seed)
            found["removed"] = remove(first.images, value[:shown].double(), ranks).cpu().numpy()
        return found

    def _tolerance(self, batch: MeasureInputs) -> Tensor:
        """Removal tolerance of one batch."""
        images, ranks = batch.images, removal_ranks(batch.images, batch.indices, batch.seed)
        result = images.new_ones(len(images))
        standing = torch.arange(len(images), device=images.device)
        with torch.no_grad():
            predicted = predict(batch.network, images).argmax(1)
            for level in range(1, self.levels + 1):
                shares = torch.full((len(standing),), level / self.levels, dtype=torch.float64, device=images.device)
                kept = remove(images[standing], shares, ranks[standing])
                changed = predict(batch.network, kept).argmax(1) != predicted[standing]
                result[standing[changed]] = (level - 1) / self.levels
                standing = standing[~changed]
                if not len(standing):
                    break
        return result


def remove(images: Tensor, shares: Tensor, ranks: Tensor) -> Tensor:
    """Images (N, C, H, W) of whose values a share, (N,), is set to zero, in the order of `removal_ranks`."""
    counts = (images[:1].numel() * shares.double()).round()
    return torch.where(ranks >= per_image(counts, ranks), images, 0.0)


def removal_ranks(images: Tensor, indices: Sequence[int] | npt.NDArray[np.int64], seed: int) -> Tensor:
    """Place of each value of images (N, C, H, W) in the order of its removal, a function of seed and number."""
    size = images[0].numel()
    orders = [torch.randperm(size, generator=keyed_generator(seed, int(number))) for number in indices]
    return torch.stack(orders).reshape(images.shape).to(images.device)
