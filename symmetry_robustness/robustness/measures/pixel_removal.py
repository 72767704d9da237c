"""How much of an image can be removed before the prediction changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.validation import check_evaluation_mode, check_images, predict
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.measures.base import Arrays, Subject

Numbers = Sequence[int] | npt.NDArray[np.int64]


def removal_tolerance(
    network: nn.Module,
    images: Tensor,
    *,
    levels: int = 20,
    seed: int = 0,
    indices: Numbers | None = None,
    batch_size: int = 128,
) -> Tensor:
    """Largest share of randomly chosen input values that can be set to zero before the prediction changes.

    The shares 1/levels, 2/levels, ..., 1 are tried in turn, each removing more of the same random order, and an image
    is done at the first change: what a larger share would do does not count.

    Args:
        network: images in [0, 1] to logits, in evaluation mode.
        images: float32 (N, C, H, W) in [0, 1].
        levels: number of shares that are tried; the resolution of the result.
        seed: of the random order, together with the number of the image.
        indices: (N,) numbers of the images in their data set; without it 0, 1, 2, ...
        batch_size: images per pass through the network.

    Returns:
        (N,) shares, multiples of 1/levels, on the images' device: 0 where the first level changes the prediction, 1
        where nothing does.

    Raises:
        UserError: for unsuitable images, a network in training mode, or no levels.
    """
    check_images(images)
    check_evaluation_mode(network)
    check_levels(levels)
    numbers = range(len(images)) if indices is None else indices
    parts = [
        _tolerance(network, part, removal_ranks(part, numbers[start : start + batch_size], seed), levels)
        for start, part in zip(range(0, len(images), batch_size), torch.split(images, batch_size), strict=False)
    ]
    return torch.cat(parts) if parts else images.new_zeros(0)


def remove(images: Tensor, shares: Tensor, ranks: Tensor) -> Tensor:
    """Images (N, C, H, W) of whose values a share, (N,), is set to zero, in the order of `removal_ranks`."""
    counts = (images[:1].numel() * shares.double()).round()
    return torch.where(ranks >= per_image(counts, ranks), images, 0.0)


def removal_ranks(images: Tensor, numbers: Numbers, seed: int) -> Tensor:
    """Place of each value of images (N, C, H, W) in the order of its removal, a function of seed and number."""
    size = images[0].numel()
    orders = [torch.randperm(size, generator=keyed_generator(seed, int(number))) for number in numbers]
    return torch.stack(orders).reshape(images.shape).to(images.device)


def removed(
    images: npt.NDArray[np.float32], shares: npt.NDArray[np.float64], numbers: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.float32]:
    """What `RemovalTolerance` leaves of images (N, C, H, W) of these numbers when shares (N,) of them are removed."""
    given = torch.from_numpy(images)
    left: npt.NDArray[np.float32] = remove(given, torch.from_numpy(shares), removal_ranks(given, numbers, seed)).numpy()
    return left


def _tolerance(network: nn.Module, images: Tensor, ranks: Tensor, levels: int) -> Tensor:
    """Removal tolerance of one batch."""
    result = images.new_ones(len(images))
    standing = torch.arange(len(images), device=images.device)
    with torch.no_grad(), float32(images.device):
        predicted = predict(network, images).argmax(1)
        for level in range(1, levels + 1):
            shares = torch.full((len(standing),), level / levels, dtype=torch.float64, device=images.device)
            kept = remove(images[standing], shares, ranks[standing])
            changed = predict(network, kept).argmax(1) != predicted[standing]
            result[standing[changed]] = (level - 1) / levels
            standing = standing[~changed]
            if not len(standing):
                break
    return result


def check_levels(levels: int) -> None:
    """Refuse a resolution that is none.

    Raises:
        UserError: where there are no levels.
    """
    if levels < 1:
        raise UserError(f"levels must be at least 1, got {levels}; 20 tell shares of 5 %")


@final
@dataclass(frozen=True)
class RemovalTolerance:
    """Measures `value` (N,), the removal tolerance; at most 1 + levels passes per image, fewer where it breaks early.

    Args:
        levels: number of shares that are tried; the resolution of the result.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Source: arXiv 2510.16171, released scripts.
    """

    levels: int = 20
    images: int | None = None

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def __call__(self, subject: Subject) -> Arrays:
        """Tolerance of each image."""
        value = removal_tolerance(
            subject.network,
            subject.images,
            levels=self.levels,
            seed=subject.seed,
            indices=subject.numbers,
            batch_size=subject.batch_size,
        )
        return {"value": value.double().cpu().numpy()}
