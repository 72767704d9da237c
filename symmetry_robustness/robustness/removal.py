"""Two measures that need no attack: how much of an image can be removed, and how steep the loss is at it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.gradient import PGD, check_evaluation_mode, check_labels, loss_gradient
from symmetry_robustness.attacks.randomness import example_generator
from symmetry_robustness.attacks.threat import NORMS, NormName, check_images
from symmetry_robustness.errors import UserError


def removal_tolerance(
    network: nn.Module,
    images: Tensor,
    *,
    levels: int = 20,
    seed: int = 0,
    indices: Sequence[int] | npt.NDArray[np.int64] | None = None,
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
    if levels < 1:
        raise UserError(f"levels must be at least 1, got {levels}; 20 tell shares of 5 %")
    numbers = range(len(images)) if indices is None else indices
    parts = [
        _tolerance(network, part, [int(number) for number in numbers[start : start + batch_size]], levels, seed)
        for start, part in zip(range(0, len(images), batch_size), torch.split(images, batch_size), strict=False)
    ]
    return torch.cat(parts) if parts else images.new_zeros(0)


def _tolerance(network: nn.Module, images: Tensor, numbers: Sequence[int], levels: int, seed: int) -> Tensor:
    """Removal tolerance of one batch."""
    size = images[:1].numel()
    orders = [torch.randperm(size, generator=example_generator(seed, number)) for number in numbers]
    rank = torch.stack(orders).reshape(images.shape).to(images.device)
    result = images.new_ones(len(images))
    standing = torch.arange(len(images), device=images.device)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        predicted = network(images).argmax(1)
        for level in range(1, levels + 1):
            kept = torch.where(rank[standing] >= round(size * level / levels), images[standing], 0.0)
            changed = network(kept).argmax(1) != predicted[standing]
            result[standing[changed]] = (level - 1) / levels
            standing = standing[~changed]
            if not len(standing):
                break
    return result


def gradient_norm(
    network: nn.Module, images: Tensor, labels: Tensor, *, norm: NormName = "l2", batch_size: int = 128
) -> Tensor:
    """Norm of the gradient of the cross-entropy with respect to each image, (N,).

    Args:
        network: images in [0, 1] to logits, in evaluation mode.
        images: float32 (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        norm: in which the gradient is measured, "l2" or "linf".
        batch_size: images per pass through the network.

    Raises:
        UserError: for unsuitable images or labels, or a network in training mode.
    """
    check_images(images)
    check_labels(labels, images)
    check_evaluation_mode(network)
    rule = PGD(steps=1)
    parts = [
        NORMS[norm].length(loss_gradient(network, x, y, rule)[1])
        for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    ]
    return torch.cat(parts) if len(images) else images.new_zeros(0)
