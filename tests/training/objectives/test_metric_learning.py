"""Triplets: when they are satisfied, to what they are blind, and which images they join."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from symmetry_robustness.features import read_features
from symmetry_robustness.training.objectives import MetricLearning
from symmetry_robustness.training.objectives.metric_learning import class_mates, distance, nearest_rivals, triplets

from .networks import batch, smooth_network

ALL = torch.ones(8, dtype=torch.bool)


def test_an_anchor_at_its_positive_and_far_from_its_negative_leaves_the_norm() -> None:
    anchor = F.pad(torch.rand(8, 3) + 0.1, (0, 3))
    negative = F.pad(torch.rand(8, 3) + 0.1, (3, 0))  # orthogonal: at distance 1
    norm = (2 * anchor.square() + negative.square()).mean()
    torch.testing.assert_close(triplets(anchor, anchor, negative, ALL, 0.9, 0.001), 0.001 * norm)


def test_violated_triplets_cost_by_how_much_they_are() -> None:
    anchor, positive, negative = (torch.randn(8, 5) for _ in range(3))
    cosines = [F.cosine_similarity(anchor, other).abs() for other in (positive, negative)]
    expected = (cosines[1] - cosines[0] + 2.0).mean()  # a margin that nobody keeps
    torch.testing.assert_close(triplets(anchor, positive, negative, ALL, 2.0, 0.0), expected)


@pytest.mark.parametrize("factor", [3.0, -0.5])
def test_the_distance_is_blind_to_the_length_and_sign_of_features(factor: float) -> None:
    first, second = torch.randn(8, 5), torch.randn(8, 5)
    torch.testing.assert_close(distance(factor * first, second), distance(first, second))
    torch.testing.assert_close(distance(first, factor * second), distance(first, second))
    torch.testing.assert_close(distance(first, factor * first), torch.zeros(8))


def test_a_rotation_of_all_features_changes_nothing() -> None:
    rotation = torch.linalg.qr(torch.randn(5, 5)).Q
    features = [torch.randn(8, 5) for _ in range(3)]
    found = triplets(*features, ALL, 0.5, 0.001)
    torch.testing.assert_close(triplets(*(f @ rotation for f in features), ALL, 0.5, 0.001), found)


def test_mates_are_other_images_of_the_class_and_each_is_drawn() -> None:
    labels = torch.tensor([0, 1, 0, 2, 0, 1])
    drawn = set()
    for _ in range(50):
        mate, exists = class_mates(labels)
        assert exists.tolist() == [True, True, True, False, True, True]
        assert (labels[mate] == labels)[exists].all()
        assert (mate != torch.arange(6))[exists].all()
        drawn.add(int(mate[0]))
    assert drawn == {2, 4}


def test_rivals_are_the_nearest_images_of_other_classes() -> None:
    labels, clean = torch.randint(3, (40,)), torch.randn(40, 6)
    anchor = torch.randn(40, 6)
    rival, exists = nearest_rivals(anchor, clean, labels)
    assert exists.all()
    for place in range(40):
        distances = {
            other: float(distance(anchor[None, place], clean[None, other]))
            for other in range(40)
            if labels[other] != labels[place]
        }
        assert int(rival[place]) == min(distances, key=distances.__getitem__)
    assert not nearest_rivals(anchor, clean, torch.zeros(40))[1].any()


def test_triplets_that_do_not_exist_do_not_count() -> None:
    features = [torch.randn(8, 5) for _ in range(3)]
    some = torch.arange(8) < 3
    expected = triplets(*(f[:3] for f in features), ALL[:3], 0.5, 0.001)
    torch.testing.assert_close(triplets(*features, some, 0.5, 0.001), expected)
    assert float(triplets(*features, ~ALL, 0.5, 0.001)) == 0


def test_the_loss_is_that_of_both_triplets() -> None:
    network, (images, _) = smooth_network().eval(), batch(6)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    objective = MetricLearning(0, strength=1.5, margin=0.4, noise=0)
    torch.manual_seed(1)
    loss, logits = objective(network, images, labels)
    torch.manual_seed(1)
    torch.rand(images.shape)  # the noise
    mate, _ = class_mates(labels)
    _, features = read_features(network, images, ["5:input"])
    z = features["5:input"]
    negative = z[nearest_rivals(z, z, labels)[0]]
    ones = torch.ones(6, dtype=torch.bool)
    terms = [triplets(z, positive, negative, ones, 0.4, 0.001) for positive in (z, z[mate])]
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels) + 1.5 * sum(terms))
    assert torch.equal(logits, network(images))


@pytest.mark.parametrize("labels", [[1], [1, 1], [0, 1]])
def test_batches_without_mates_or_rivals_are_trained_on(labels: list[int]) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 3))
    loss, _ = MetricLearning(0.1)(network, torch.rand(len(labels), 3, 4, 4), torch.tensor(labels))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_features_that_are_zero_have_finite_gradients() -> None:
    features = torch.zeros(8, 5, requires_grad=True)
    triplets(features, features, torch.randn(8, 5), ALL, 0.5, 0.001).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert features.grad.isfinite().all()
