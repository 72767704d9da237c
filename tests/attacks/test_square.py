"""Square stays in its ball, never loses ground, and draws its random numbers for each image and query."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import Square, ThreatModel
from symmetry_robustness.attacks.base import Pass, attack_loss
from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.attacks.square import _bump
from symmetry_robustness.engine.continuous_batching import ContinuousBatching
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import hashed_uniform, keyed_generator

BALLS = [("linf", 0.02), ("l2", 0.5)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small convolutional network with smooth activations, untrained."""
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(392, 6)).eval()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((40, 3, 16, 16), generator=torch.Generator().manual_seed(4))


def predictions(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1)


@pytest.mark.parametrize(("norm", "epsilon"), BALLS)
def test_every_query_lies_in_ball_and_bounds_and_the_best_never_worsens(
    network: nn.Module, images: Tensor, norm: str, epsilon: float
) -> None:
    rule, threat = Square(steps=300), ThreatModel(norm, epsilon)  # type: ignore[arg-type]
    radius, labels = torch.full((len(images),), epsilon), predictions(network, images)
    sources = [keyed_generator(0, number) for number in range(len(images))]
    memory, before = rule.start(threat, images, radius, sources), None
    sides = set()
    for step in range(300):
        iterate = memory["iterate"]
        assert (NORMS[norm].length((iterate - images).double()) <= epsilon + 1e-6).all()
        assert iterate.min() >= 0
        assert iterate.max() <= 1
        with torch.no_grad():
            logits = network(iterate)
        result = Pass(images, radius, labels, labels, torch.full_like(labels, step), logits, torch.zeros_like(images))
        memory = rule.step(threat, result, memory)
        with torch.no_grad():
            reached = attack_loss("margin", network(memory["best"]), labels)
        torch.testing.assert_close(reached, memory["best_loss"], rtol=1e-4, atol=1e-5)
        assert before is None or (reached >= before - 1e-5).all()
        before = reached
        if norm == "linf":
            changed = (memory["iterate"] != memory["best"]).any(1)
            heights, widths = changed.any(2).sum(1), changed.any(1).sum(1)
            assert (changed.sum((1, 2)) <= heights * widths).all()
            sides.add(int(heights.max()))
    assert norm != "linf" or sides == {14, 10, 7, 5}  # sqrt(0.8 · 256) and so on, halved in area after 10, 50, 200


@pytest.mark.parametrize(("norm", "epsilon"), BALLS)
def test_breaks_about_as_many_images_as_the_library(
    network: nn.Module, images: Tensor, norm: str, epsilon: float
) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    labels, threat = predictions(network, images), ThreatModel(norm, epsilon)  # type: ignore[arg-type]
    theirs = torchattacks.Square(network, eps=epsilon, norm=norm.capitalize(), n_queries=400, resc_schedule=False)
    broken = [predictions(network, theirs(images, labels)) != labels]
    search = ContinuousBatching(network, Square(steps=400), [threat]).find_minimal_epsilon(images, labels)
    broken.append(torch.as_tensor(search.position == 0))
    counts = [int(found.sum()) for found in broken]
    # Random searches that draw other numbers: of the images that only one of them breaks neither has many more.
    assert 5 < counts[0] < 35
    assert counts[1] >= counts[0] - 3


def test_results_do_not_depend_on_batch_or_order(network: nn.Module, images: Tensor) -> None:
    labels, threats = predictions(network, images), [ThreatModel("linf", 0.02), ThreatModel("linf", 0.05)]
    numbers = np.arange(len(images))
    found = []
    for order, size in ((numbers, 64), (numbers[::-1].copy(), 7)):
        rows = torch.as_tensor(order)
        search = ContinuousBatching(network, Square(steps=60), threats, batch_size=size)
        result = search.find_minimal_epsilon(images[rows], labels[rows], indices=order)
        back = np.argsort(order)
        found.append((result.position[back], result.distance[back], result.passes[back]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
    assert len(set(found[0][0])) > 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (4, 4), (7, 6)])
def test_small_images_are_searched_too(norm: str, size: tuple[int, int]) -> None:
    images = torch.full((3, 3, *size), 0.5)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    attacked = Square(steps=40)(network, images, torch.zeros(3, dtype=torch.int64), ThreatModel(norm, 0.4))  # type: ignore[arg-type]
    assert (predictions(network, attacked) != 0).all()
    assert (NORMS[norm].length((attacked - images).double()) <= 0.4 + 1e-6).all()


@pytest.mark.parametrize("side", [1, 2, 3, 6, 9])
def test_a_bump_has_length_one_and_two_halves_of_opposite_sign(side: int) -> None:
    bump = _bump(side)
    assert bump.shape == (side, side)
    assert float(bump.norm()) == pytest.approx(1)
    assert side == 1 or ((bump[: side // 2] > 0).all() and (bump[side // 2 :] < 0).all())


def test_hashed_numbers_are_uniform_and_independent() -> None:
    key = torch.arange(500)
    numbers = torch.stack([hashed_uniform(key, torch.full_like(key, step), 8) for step in range(20)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 10, 0, 1)
    assert ((counts - 8000).abs() < 5 * 8000**0.5).all()
    flat = numbers.permute(1, 0, 2).flatten(1)
    for shift in (1, 8):
        assert (
            abs(float(torch.corrcoef(torch.stack([flat[:, :-shift].flatten(), flat[:, shift:].flatten()]))[0, 1]))
            < 0.02
        )
    assert abs(float(torch.corrcoef(torch.stack([flat[:-1].flatten(), flat[1:].flatten()]))[0, 1])) < 0.02


def test_wrong_settings_and_norms_are_refused(network: nn.Module, images: Tensor) -> None:
    for settings in ({"steps": 0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(UserError, match=next(iter(settings))):
            Square(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="norm l1"):
        Square(steps=2)(network, images, predictions(network, images), ThreatModel("l1", 1.0))
