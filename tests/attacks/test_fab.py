"""FAB finds the nearest change: in closed form on linear networks, and as near as the library's elsewhere."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from symmetry_robustness.attacks import FAB, ThreatModel
from symmetry_robustness.attacks.fab import project_to_plane
from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.engine.continuous_batching import ContinuousBatching
from symmetry_robustness.errors import UserError

NORM_ORDERS = [("linf", 1), ("l2", 2)]
RULES = [FAB(iterations=20, restarts=4), FAB(iterations=20, targeted=False)]


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    """Logits of five classes, linear in 48 pixels."""
    layer = nn.Linear(48, 5)
    layer.weight.data = torch.randn((5, 48), generator=torch.Generator().manual_seed(1))
    layer.bias.data = torch.zeros(5)
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small convolutional network with smooth activations, untrained."""
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 6)).eval()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return network


def predictions(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1)


@pytest.mark.parametrize(("norm", "order"), NORM_ORDERS)
@pytest.mark.parametrize("rule", RULES)
def test_distance_on_a_linear_network_is_margin_over_dual_norm(
    linear: nn.Module, norm: str, order: float, rule: FAB
) -> None:
    images = 0.45 + 0.1 * torch.rand((30, 3, 4, 4), generator=torch.Generator().manual_seed(2))
    labels, weight = predictions(linear, images), linear[1].weight.double().detach()
    with torch.no_grad():
        logits = linear(images).double()
    gaps = logits.gather(1, labels[:, None]) - logits
    lengths = (weight[labels][:, None] - weight[None]).norm(order, dim=2)
    expected = (gaps / lengths).scatter(1, labels[:, None], torch.inf).amin(1).numpy()
    threats = [ThreatModel(norm, 0.001), ThreatModel(norm, 10.0)]  # type: ignore[arg-type]
    found = ContinuousBatching(linear, rule, threats, batch_size=16).find_minimal_epsilon(images, labels)
    assert (found.distance >= expected * (1 - 1e-4)).all()
    np.testing.assert_allclose(found.distance, expected, rtol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_projection_onto_a_plane_is_the_shortest_inside_the_bounds(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, gradient = torch.rand((6, 10), generator=generator), torch.randn((6, 10), generator=generator)
    gradient[:, 0] = 0
    gap = 4 * torch.randn(6, generator=generator)
    change = project_to_plane(NORMS["linf"], points, gradient, gap, (0.0, 1.0))
    assert ((points + change >= -1e-6) & (points + change <= 1 + 1e-6)).all()
    for row in range(6):
        x, w, g = (values[row].double().numpy() for values in (points, gradient, gap))
        # Variables: the change and its largest size, which is minimised.
        size = np.eye(10)
        above = np.block([[size, -np.ones((10, 1))], [-size, -np.ones((10, 1))]])
        bounds = [(-value, 1 - value) for value in x] + [(0, None)]
        best = linprog([0] * 10 + [1], above, np.zeros(20), [[*w, 0]], [-g], bounds)
        nearest = np.where(g * w < 0, 1 - x, -x)
        if best.success:
            assert float(change[row].abs().max()) == pytest.approx(best.fun, rel=1e-4)
            assert float(change[row].double().numpy() @ w) == pytest.approx(-g, rel=1e-4)
        else:  # as close as the bounds allow
            np.testing.assert_allclose(change[row].numpy()[w != 0], nearest[w != 0], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_euclidean_projection_satisfies_its_conditions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, gradient = torch.rand((6, 10), generator=generator), torch.randn((6, 10), generator=generator)
    gap = 2 * torch.randn(6, generator=generator)
    change = project_to_plane(NORMS["l2"], points, gradient, gap, (0.0, 1.0))
    moved = points + change
    for row in range(6):
        free = (moved[row] > 1e-6) & (moved[row] < 1 - 1e-6)
        ratio = change[row][free] / gradient[row][free]
        assert ratio.numel() == 0 or float(ratio.max() - ratio.min()) < 1e-4  # one multiplier for all free components
        way = -gap[row] * gradient[row]
        most = (gradient[row].abs() * torch.where(way > 0, 1 - points[row], points[row])).sum()
        if gap[row].abs() < 0.999 * most:
            assert float((change[row] * gradient[row]).sum() + gap[row]) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [True, False])
def test_finds_changes_as_near_as_the_library(network: nn.Module, norm: str, targeted: bool) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    images = torch.rand((40, 3, 8, 8), generator=torch.Generator().manual_seed(4))
    labels, threat = predictions(network, images), ThreatModel(norm, 5.0)  # type: ignore[arg-type]
    theirs = torchattacks.FAB(
        network, eps=5.0, norm=norm.capitalize(), steps=30, multi_targeted=targeted, n_classes=2 if targeted else 6
    )
    rule = FAB(iterations=30, targeted=targeted)
    found = ContinuousBatching(network, rule, [threat], batch_size=9).find_minimal_epsilon(images, labels)
    reference = threat.distance(theirs(images, labels), images).numpy()
    both = np.isfinite(found.distance) & (reference > 0)
    assert both.sum() >= 0.95 * len(images)
    # The same iteration, but for the order of sums and the rounding of its projections.
    ratio = found.distance[both] / reference[both]
    assert np.median(np.abs(ratio - 1)) < 1e-3
    assert np.quantile(np.abs(ratio - 1), 0.9) < 0.02


def test_one_run_serves_every_epsilon_in_any_order_and_batch(network: nn.Module) -> None:
    images = torch.rand((25, 3, 8, 8), generator=torch.Generator().manual_seed(4))
    labels, rule = predictions(network, images), FAB(iterations=6, restarts=3)
    threats = [ThreatModel("linf", epsilon) for epsilon in (0.01, 0.05, 0.2)]
    whole = ContinuousBatching(network, rule, threats[-1:], batch_size=64).find_minimal_epsilon(images, labels)
    rows = torch.arange(24, -1, -1)
    for size in (4, 25):
        search = ContinuousBatching(network, rule, threats, batch_size=size)
        found = search.find_minimal_epsilon(images[rows], labels[rows], indices=rows.numpy())
        np.testing.assert_allclose(found.distance[::-1], whole.distance, rtol=1e-4)
        assert set(found.passes) == {3 * (2 * 6 + 1)}


def test_result_of_a_call_lies_in_the_ball_or_is_the_image(network: nn.Module) -> None:
    images = torch.rand((20, 3, 8, 8), generator=torch.Generator().manual_seed(4))
    labels = predictions(network, images)
    attacked = FAB(iterations=10, targeted=False)(network, images, labels, ThreatModel("linf", 0.02))
    wrong = predictions(network, attacked) != labels
    assert 0 < int(wrong.sum()) < 20
    assert torch.equal(attacked[~wrong], images[~wrong])
    assert ((attacked - images).abs().amax((1, 2, 3)) <= 0.02 + 1e-6).all()


def test_random_starts_differ_by_restart_and_lie_half_an_epsilon_away(network: nn.Module) -> None:
    images = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(4))
    rule, radius = FAB(targeted=False, random_start=True, restarts=2), torch.full((4,), 0.2)
    starts = [
        rule.start(ThreatModel("linf", 0.2), images, radius, torch.Generator().manual_seed(seed))["iterate"]
        for seed in (0, 1)
    ]
    assert not torch.equal(*starts)
    assert all(float((start - images).abs().max()) <= 0.1 + 1e-6 for start in starts)


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"restarts": 0}, {"restarts": 2, "targeted": False}])
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        FAB(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="norm l1"):
        FAB(iterations=1)(nn.Flatten().eval(), torch.rand(1, 3, 1, 1), torch.tensor([0]), ThreatModel("l1", 1.0))
