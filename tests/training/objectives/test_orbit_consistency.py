"""Consistency over orbits: exact permutations, invariant networks, the worst of several."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.training.objectives import CrossEntropy, OrbitConsistency
from symmetry_robustness.training.objectives.orbit_consistency import permuted, scaled

from .networks import batch, smooth_network


class Invariant(nn.Module):
    """Logits from sums of pixels, which are whole numbers, so that their order does not matter."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 8).round().sum((2, 3)) / 64


def test_quarter_turns_and_flips_are_those_of_torch() -> None:
    images = torch.rand(8, 3, 4, 4)
    turns, mirrored = torch.arange(8) % 4, torch.arange(8) // 4
    found = permuted(images, turns, mirrored)
    for image, turn, flip, moved in zip(images, turns, mirrored, found, strict=True):
        assert torch.equal(moved, torch.rot90(image.flip(2) if flip else image, int(turn), (1, 2)))
    for _ in range(4):
        images = permuted(images, torch.ones(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64))
    assert torch.equal(permuted(images, turns, mirrored), found)


def test_images_that_are_not_square_can_be_mirrored() -> None:
    images = torch.rand(2, 3, 4, 5)
    found = permuted(images, torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1]))
    assert torch.equal(found, torch.stack([images[0], images[1].flip(2)]))


def test_scale_one_changes_nothing_and_scale_two_shows_the_middle() -> None:
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(scaled(images, torch.ones(2)), images)
    line = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(scaled(line, torch.tensor([2.0]))[0, 0, 0], 1.75 + torch.arange(8.0) / 2)
    assert torch.equal(scaled(torch.full((2, 3, 8, 8), 0.25), torch.tensor([0.5, 2.0])), torch.full((2, 3, 8, 8), 0.25))


@pytest.mark.parametrize("distance", ["kl", "l2"])
@pytest.mark.parametrize("candidates", [1, 5])
def test_an_invariant_network_is_consistent(candidates: int, distance: str) -> None:
    images, labels = batch()
    loss, _ = OrbitConsistency(10.0, candidates, distance)(Invariant(), images, labels)  # type: ignore[arg-type]
    assert torch.equal(loss, CrossEntropy()(Invariant(), images, labels)[0])


def test_another_network_is_not_and_the_worst_copy_is_worse() -> None:
    network, (images, labels) = smooth_network().eval(), batch()
    losses = []
    for candidates in (1, 20):
        torch.manual_seed(0)
        objective = OrbitConsistency(1.0, candidates, scales=(0.5, 2.0))
        copy = objective._copy(network, images, labels)
        losses.append(nn.functional.cross_entropy(network(copy), labels, reduction="none"))
        assert objective(network, images, labels)[0] > CrossEntropy()(network, images, labels)[0]
    assert (losses[1] >= losses[0]).all()
    assert (losses[1] > losses[0]).any()


def test_all_transformations_are_drawn_about_equally_often() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(4000, 1, 4, 4)
    drawn = OrbitConsistency().transform(image).flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(drawn) == 8
    assert (drawn - 500).abs().max() < 120  # more than five standard deviations
