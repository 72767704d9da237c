from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import MeasureInputs, RemovalTolerance
from symmetry_robustness.robustness.measures.pixel_removal import removal_ranks, remove


def removal_tolerance(
    network: nn.Module, images: Tensor, *, levels: int = 20, indices: Sequence[int] | None = None, **settings: int
) -> Tensor:
    numbers = np.arange(len(images)) if indices is None else np.array(indices)
    inputs = MeasureInputs(network, images, torch.zeros(len(images), dtype=torch.int64), numbers, **settings)
    return torch.from_numpy(RemovalTolerance(levels).compute(inputs)["value"]).float()


class Total(nn.Module):
    """Says 1 where the mean pixel exceeds a threshold, else 0."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        excess = images.flatten(1).mean(1) - self.threshold
        return torch.stack([-excess, excess], dim=1)


@pytest.mark.parametrize(("threshold", "tolerance"), [(0.33, 0.5), (0.1, 0.8), (0.749, 0.0), (-1.0, 1.0)])
def test_a_threshold_on_the_mean_has_an_exact_tolerance(threshold: float, tolerance: float) -> None:
    # Of an even image of brightness b, a share s removed leaves the mean at b (1 - s): 0.8 * 0.5 > 0.33 > 0.8 * 0.4.
    images = torch.full((5, 3, 10, 10), 0.8)
    result = removal_tolerance(Total(threshold), images, levels=10)
    np.testing.assert_allclose(result, np.full(5, tolerance), atol=1e-6)


def test_each_image_has_its_own_seeded_order(network: nn.Module, images: Tensor) -> None:
    result = removal_tolerance(network, images, batch_size=7)
    assert len(result.unique()) > 3
    assert torch.equal(result, removal_tolerance(network, images, batch_size=30))
    assert torch.equal(result[10:], removal_tolerance(network, images[10:], indices=range(10, 30)))
    assert not torch.equal(result, removal_tolerance(network, images, seed=1))


def test_the_definition_image_by_image(network: nn.Module, images: Tensor) -> None:
    from symmetry_robustness.rng import keyed_generator

    result = removal_tolerance(network, images[:6], levels=8)
    for number, image in enumerate(images[:6]):
        order = torch.randperm(192, generator=keyed_generator(0, number)).argsort()
        predicted, share = network(image[None]).argmax(), 0.0
        for level in range(1, 9):
            removed = image.flatten().clone()
            removed[order[: 24 * level]] = 0
            if network(removed.reshape(1, 3, 8, 8)).argmax() != predicted:
                break
            share = level / 8
        assert result[number] == share


def test_a_share_is_removed_exactly_and_nothing_else(images: Tensor) -> None:
    shares = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    positive = images[:4] + 0.01
    left = remove(positive, shares, removal_ranks(positive, range(4), seed=0))
    assert (left == 0).flatten(1).sum(1).tolist() == [0, 48, 96, 192]
    assert ((left == 0) | (left == positive)).all()


def test_what_is_left_at_the_tolerance_keeps_its_prediction(network: nn.Module, images: Tensor) -> None:
    found = removal_tolerance(network, images, levels=20, indices=range(5, 35)).double()
    ranks = removal_ranks(images, range(5, 35), seed=0)
    predicted = network(images).argmax(1)
    assert torch.equal(network(remove(images, found, ranks)).argmax(1), predicted)
    broken = found < 1
    changed = network(remove(images, found + 1 / 20, ranks)).argmax(1) != predicted
    assert changed[broken].all()


def test_what_cannot_be_measured_is_refused(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(UserError, match="levels must be at least 1"):
        removal_tolerance(network, images, levels=0)
    with pytest.raises(UserError, match=r"images must lie in"):
        removal_tolerance(network, images * 2)
    assert removal_tolerance(network, images[:0]).shape == (0,)
