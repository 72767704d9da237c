"""Randomised smoothing against closed forms: a linear network, the level of its interval, a tie."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import (
    EvaluationProtocol,
    MeasureInputs,
    RandomizedSmoothing,
    evaluate_in_shards,
    evaluate_robustness,
)
from symmetry_robustness.robustness.measures.smoothing import lower_share


def inputs(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 128) -> MeasureInputs:
    return MeasureInputs(network, images, labels, np.arange(len(images)), batch_size=batch_size)


def test_radius_of_a_linear_network_is_its_distance_within_the_interval(two_classes) -> None:
    """The share of noise that leaves the class is Φ(distance / sigma), so that its bound is the distance's."""
    measure = RandomizedSmoothing(sigma=0.4, n=2000, alpha=0.001)
    found = measure.compute(inputs(two_classes.network, two_classes.images, two_classes.labels))
    distance = two_classes.distances(2)
    certain = ~found["abstained"]
    assert certain.sum() > 10
    np.testing.assert_array_equal(found["prediction"][certain], two_classes.labels.numpy()[certain])
    assert (found["radius"] <= distance).all()
    # And no further below than the interval is wide, but for a chance of one in a million.
    count = binom.ppf(1e-6, 2000, norm.cdf(distance / 0.4)).astype(np.int64)
    least = 0.4 * norm.ppf(np.maximum(lower_share(count, 2000, 0.001), 0.5))
    assert (found["radius"] >= least - 1e-12).all()
    # Only what is closer than the interval can tell from a tie has no certificate.
    assert (least[found["abstained"]] == 0).all()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.7, 0.93, 0.999])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_exceeds_the_share_no_more_often_than_it_may(share: float, alpha: float) -> None:
    counts = np.arange(201)
    above = lower_share(counts, 200, alpha) > share
    exact = binom.pmf(counts, 200, share)[above].sum()
    assert exact <= alpha
    drawn = np.random.default_rng(0).binomial(200, share, 20_000)
    assert (lower_share(drawn, 200, alpha) > share).mean() <= alpha + 4 * np.sqrt(alpha / 20_000)


class Tie(nn.Module):
    """Two classes, equally often."""

    def forward(self, images: Tensor) -> Tensor:
        noise = images.flatten(1).sum(1) - 0.5 * images[0].numel()
        return torch.stack([noise, -noise], 1)


def test_it_abstains_at_a_tie() -> None:
    images = torch.full((12, 3, 4, 4), 0.5)
    found = RandomizedSmoothing(n=400).compute(inputs(Tie().eval(), images, torch.zeros(12, dtype=torch.int64)))
    assert found["abstained"].all()
    assert (found["prediction"] == -1).all()
    assert not found["radius"].any()
    assert not found["certified"].any()


def test_wrong_images_have_no_radius_and_accuracy_falls_with_it(two_classes) -> None:
    labels = two_classes.labels.clone()
    labels[:5] = 1 - labels[:5]
    measure = RandomizedSmoothing(sigma=0.2, n=200, radii=(0.0, 0.1, 0.2, 0.4))
    found = measure.compute(inputs(two_classes.network, two_classes.images, labels))
    assert not found["radius"][:5].any()
    assert not found["certified"][:5].any()
    np.testing.assert_array_equal(found["certified"][:, 0], found["correct"])
    assert (np.diff(found["certified"].mean(0)) <= 0).all()
    np.testing.assert_array_equal(found["certified"][:, 1], found["radius"] >= 0.1)


def test_noise_belongs_to_the_image_not_to_batches_or_shards(
    network: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    measure = RandomizedSmoothing(sigma=0.1, n0=30, n=170, images=9)
    first, second = (measure.compute(inputs(network, images, labels, size)) for size in (60, 500))
    np.testing.assert_array_equal(first["share"], second["share"])
    protocol = EvaluationProtocol(epsilons=(), measures={"smoothing": measure}, checks="cheap")
    whole = evaluate_robustness(network, images, labels, protocol)
    shared = evaluate_in_shards(network, images, labels, protocol, tmp_path, shard_size=4)
    assert shared is not None
    np.testing.assert_array_equal(shared.measures["smoothing"]["share"], whole.measures["smoothing"]["share"])
    assert len(list(tmp_path.glob("measures.smoothing-*.json"))) == 3
    assert whole.measures["smoothing"]["certified"].shape == (9, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0}, "smoothing sigma must be positive, got 0"),
        ({"n": 0}, "smoothing n must be at least 1"),
        ({"alpha": 0.5}, "smoothing alpha must lie between"),
        ({"radii": [0.5, 0.25]}, "smoothing radii must increase"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RandomizedSmoothing(**settings)  # type: ignore[arg-type]
