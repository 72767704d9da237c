"""Consistency over orbits: exact permutations, invariant networks, the worst of several."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.training.objectives import CrossEntropy, OrbitConsistency

from .networks import batch, smooth_network


class Invariant(nn.Module):
    """Logits from sums of pixels, which are whole numbers, so that their order does not matter."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 8).round().sum((2, 3)) / 64


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
