"""APGD reaches closed forms, keeps to its ball, and agrees with the library's."""

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import APGD, ThreatModel
from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.engine.continuous_batching import ContinuousBatching
from symmetry_robustness.errors import UserError


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    """Logits of five classes, linear in 48 pixels."""
    layer = nn.Linear(48, 5)
    layer.weight.data = torch.randn((5, 48), generator=torch.Generator().manual_seed(1))
    layer.bias.data = torch.zeros(5)
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.fixture(scope="module")
def grey() -> Tensor:
    """Images so far from the bounds that these cut no ball."""
    return 0.45 + 0.1 * torch.rand((40, 3, 4, 4), generator=torch.Generator().manual_seed(2))


def boundary_distances(network: nn.Module, images: Tensor, order: float) -> Tensor:
    """Distance, (B,), to the nearest class of a linear network, in the norm whose dual has this order."""
    weight = network[1].weight.double().detach()
    with torch.no_grad():
        logits = network(images).double()
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    lengths = (weight[labels][:, None] - weight[None]).norm(order, dim=2)
    ratio: Tensor = (gaps / lengths).scatter(1, labels[:, None], torch.inf)
    return ratio.amin(1)


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("rule", [APGD(steps=40, loss="dlr", targeted=True, restarts=4), APGD(steps=60, loss="margin")])
def test_linear_network_breaks_where_the_closed_form_says(
    linear: nn.Module, grey: Tensor, norm: str, order: float, rule: APGD
) -> None:
    distances = boundary_distances(linear, grey, order)
    labels = linear(grey).argmax(1)
    middle = float(distances.median())
    for factor in (0.99, 1.01):
        threats = [ThreatModel(norm, middle * factor)]  # type: ignore[arg-type]
        found = ContinuousBatching(linear, rule, threats).find_minimal_epsilon(grey, labels)
        broken = torch.as_tensor(found.position == 0)
        assert not broken[distances > middle * factor].any()
        assert broken[distances < middle * factor * 0.995].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_result_lies_in_ball_and_bounds(linear: nn.Module, norm: str) -> None:
    images = torch.rand((8, 3, 4, 4), generator=torch.Generator().manual_seed(3))
    threat = ThreatModel(norm, 0.3)  # type: ignore[arg-type]
    attacked = APGD(steps=12)(linear, images, linear(images).argmax(1), threat)
    assert (NORMS[norm].length((attacked - images).double()) <= 0.3 + 1e-6).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not torch.equal(attacked, images)


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_breaks_the_images_that_the_library_breaks(loss: str, norm: str) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 6)).eval()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    images = torch.rand((60, 3, 8, 8), generator=generator)
    with torch.no_grad():
        labels = network(images).argmax(1)
    epsilon = 0.02 if norm == "linf" else 0.2
    name = {"cross_entropy": "ce"}.get(loss, loss)
    theirs = torchattacks.APGD(network, eps=epsilon, steps=50, loss=name, norm=norm.capitalize(), seed=5)
    ours = APGD(steps=50, loss=loss)  # type: ignore[arg-type]
    threat = ThreatModel(norm, epsilon)  # type: ignore[arg-type]
    attacked = ours(network, images, labels, threat, torch.Generator().manual_seed(5))
    with torch.no_grad():
        broken = [network(found).argmax(1) != labels for found in (theirs(images, labels), attacked)]
    assert 10 < int(broken[0].sum()) < 50
    assert int((broken[0] ^ broken[1]).sum()) <= 1  # both start at the same points


def test_averages_over_draws_of_a_random_network(linear: nn.Module, grey: Tensor) -> None:
    class Noisy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = linear(images)
            return logits + 3 * torch.randn(logits.shape)

    torch.manual_seed(0)
    labels = linear(grey).argmax(1)
    one, many = APGD(draws=1), APGD(draws=100)
    spread = [rule.evaluate(Noisy(), grey, labels, labels)[0].sub(linear(grey)).std().item() for rule in (one, many)]
    assert spread[0] == pytest.approx(3, rel=0.2)
    assert spread[1] == pytest.approx(0.3, rel=0.2)


def test_checkpoints_come_ever_closer() -> None:
    windows = APGD(steps=100).windows
    assert [step for step, window in enumerate(windows) if window][:4] == [22, 41, 57, 70]
    assert min(window for window in windows if window) == 6


@pytest.mark.parametrize("settings", [{"steps": 0}, {"restarts": 0}, {"draws": 0.5}, {"loss": "ce"}])
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        APGD(**settings)  # type: ignore[arg-type]
