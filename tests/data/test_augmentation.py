"""Crop and flip move pixels only, and depend on the generator alone."""

import pytest
import torch

from symmetry_robustness.data.augmentation import RandomCropFlip
from symmetry_robustness.data.loaders import rank_slice
from symmetry_robustness.rng import keyed_generator


def augment(images: torch.Tensor, augmentation: RandomCropFlip, rank: int = 0, world_size: int = 1) -> torch.Tensor:
    rows = rank_slice(len(images), rank, world_size)
    return augmentation(images[rows], keyed_generator(0), rows, len(images))


def test_without_padding_and_flip_nothing_changes() -> None:
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(augment(images, RandomCropFlip(padding=0, flip=False)), images)


def test_every_result_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    images = torch.rand(32, 3, 8, 6) + 0.1
    results = augment(images, RandomCropFlip(padding=2))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = []
    for image, result in zip(padded, results, strict=True):
        # The mirrored window is the flip of the window, wherever it lies.
        places = [(y, x, m) for y in range(5) for x in range(5) for m in (False, True)]
        windows = [
            image[:, y : y + 8, x : x + 6].flip(2) if m else image[:, y : y + 8, x : x + 6] for y, x, m in places
        ]
        found.append([place for place, window in zip(places, windows, strict=True) if torch.equal(window, result)])
    assert all(len(place) == 1 for place in found)
    assert {place[0][2] for place in found} == {False, True}
    assert len({place[0][:2] for place in found}) > 5


@pytest.mark.parametrize("world_size", [2, 3])
def test_sharing_a_batch_does_not_change_it(world_size: int) -> None:
    images = torch.rand(7, 3, 8, 8)
    shares = [augment(images, RandomCropFlip(), rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(shares), augment(images, RandomCropFlip()))
