"""Laws of adversarial weight tuning: MI-FGSM is its limit, the network stays as it is, the copy learns to resist."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness import build_network, load_config
from symmetry_robustness.attacks import PGD, AdversarialWeightTuning, ThreatModel
from symmetry_robustness.attacks.weight_tuning import _private_copy, _Tuning
from symmetry_robustness.engine.fusion import fuse
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, Source, Transfer, evaluate_robustness

NEUTRAL: dict[str, Any] = {"learning_rate": 0, "rho": 0, "ahead": 0, "neighbour_radius": 0, "neighbours": 1}
SHORT: dict[str, Any] = {"steps": 4, "neighbours": 2, "learning_rate": 0.05}


@pytest.fixture
def plain() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)]
    return nn.Sequential(*layers).eval()


@pytest.fixture
def batch(plain: nn.Module) -> tuple[Tensor, Tensor]:
    pixels = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return pixels, plain(pixels).argmax(1)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in network.state_dict().items()}


def is_as(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_neutral_settings_are_mi_fgsm_bit_for_bit(
    plain: nn.Module, batch: tuple[Tensor, Tensor], norm: str, targeted: bool, momentum: float
) -> None:
    settings: dict[str, Any] = {"steps": 7, "relative_step_size": 0.3, "momentum": momentum, "targeted": targeted}
    threat = ThreatModel(norm, 0.1)  # type: ignore[arg-type]
    alone = PGD(**settings)(plain, *batch, threat)
    assert not torch.equal(alone, batch[0])
    assert torch.equal(AdversarialWeightTuning(**settings, **NEUTRAL)(plain, *batch, threat), alone)


@pytest.mark.parametrize(
    "part", [{"learning_rate": 0.05}, {"learning_rate": 0.05, "rho": 0.5}, {"ahead": 0.5}, {"neighbour_radius": 1.0}]
)
def test_each_part_alone_changes_the_result(
    plain: nn.Module, batch: tuple[Tensor, Tensor], part: dict[str, Any]
) -> None:
    threat = ThreatModel(epsilon=0.1)
    neutral = AdversarialWeightTuning(**NEUTRAL)(plain, *batch, threat)
    assert not torch.equal(AdversarialWeightTuning(**{**NEUTRAL, **part})(plain, *batch, threat), neutral)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_result_lies_in_ball_and_bounds(plain: nn.Module, batch: tuple[Tensor, Tensor], norm: str) -> None:
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    attacked = AdversarialWeightTuning(**SHORT)(plain, *batch, threat)
    assert (threat.excess(attacked, batch[0]) <= 1e-6).all()
    assert not torch.equal(attacked, batch[0])


def test_all_convolutions_of_the_copy_that_the_evaluator_attacks_are_tuned(batch: tuple[Tensor, Tensor]) -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.AvgPool2d(4), nn.Conv2d(8, 5, 3, padding=1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(20, 5)).eval()
    tuning = _Tuning(_private_copy(fuse(network, batch[0])), 0.05, 0.0)
    assert all(part.any() for part in tuning._slope(batch[0], batch[0], (batch[1], None)))


def test_weights_buffers_modes_and_gradients_stay_as_they_are(plain: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    plain[0].weight.requires_grad_(False)
    before = state(plain)
    AdversarialWeightTuning(**SHORT)(plain, *batch, ThreatModel(epsilon=0.1))
    assert is_as(plain, before)
    assert not plain.training
    assert all(weight.grad is None for weight in plain.parameters())
    assert [weight.requires_grad for weight in plain.parameters()][:2] == [False, True]


class Failing(nn.Module):
    """Works for so many passes, counted over all copies."""

    passes: list[int]

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most = network, most
        type(self).passes = [0]

    def forward(self, images: Tensor) -> Tensor:
        self.passes[0] += 1
        if self.passes[0] > self.most:
            raise RuntimeError("out of memory")
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize("most", range(1, 9))
def test_weights_stay_as_they_are_after_an_error(plain: nn.Module, batch: tuple[Tensor, Tensor], most: int) -> None:
    """Within the gradient of the weights, between the two of them, and at the images."""
    network, before = Failing(plain, most).eval(), state(plain)
    with pytest.raises(RuntimeError, match="out of memory"):
        AdversarialWeightTuning(**SHORT)(network, *batch, ThreatModel(epsilon=0.1))
    assert is_as(plain, before)


def test_two_calls_agree_because_no_state_is_kept(plain: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack, threat = AdversarialWeightTuning(**SHORT), ThreatModel(epsilon=0.1)
    assert torch.equal(attack(plain, *batch, threat), attack(plain, *batch, threat))


def test_tuning_is_the_step_of_the_paper_written_out(plain: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """θ ← θ - lr m, m ← m/2 + ∇h(θ + ρ ∇h/‖∇h‖), h the cross-entropy of images and attacked images."""
    images, labels = batch
    attacked, copied = (images + 0.1).clamp(0, 1), _private_copy(plain)
    tuning = _Tuning(copied, 0.1, 0.2)
    weights = {name: value.detach().clone() for name, value in plain.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in weights.items()}

    def slope(at: dict[str, Tensor]) -> dict[str, Tensor]:
        free = {name: value.clone().requires_grad_() for name, value in at.items()}
        losses = [
            functional.cross_entropy(torch.func.functional_call(plain, free, (seen,)), labels)
            for seen in (images, attacked)
        ]
        return dict(zip(free, torch.autograd.grad(losses[0] + losses[1], list(free.values())), strict=True))

    for _ in range(3):
        tuning.step(images, attacked, (labels, None))
        first = slope(weights)
        length = torch.cat([part.flatten() for part in first.values()]).norm()
        found = slope({name: value + 0.2 * first[name] / length for name, value in weights.items()})
        velocity = {name: velocity[name] / 2 + found[name] for name in weights}
        weights = {name: value - 0.1 * velocity[name] for name, value in weights.items()}
    for name, value in copied.named_parameters():
        torch.testing.assert_close(value.detach(), weights[name], rtol=0, atol=1e-5)


def test_the_tuned_copy_resists(plain: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    attacked, copied = PGD(steps=10)(plain, images, labels, ThreatModel(epsilon=0.1)), _private_copy(plain)
    tuning = _Tuning(copied, 0.05, 0.005)
    with torch.no_grad():
        before = functional.cross_entropy(copied(attacked), labels)
    for _ in range(20):
        tuning.step(images, attacked, (labels, None))
    with torch.no_grad():
        assert functional.cross_entropy(copied(attacked), labels) < 0.8 * before


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_network_of_two_classes_is_attacked_optimally(norm: str) -> None:
    """Tuning turns the weights little, so that no sign changes."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(4))
    linear[1].weight.data = weight + 0.2 * weight.sign() * torch.tensor([[1.0], [1.0]])
    images, labels, threat = torch.full((3, 3, 4, 4), 0.5), torch.tensor([0, 1, 0]), ThreatModel(norm, 0.1)  # type: ignore[arg-type]
    settings: dict[str, Any] = {"learning_rate": 1e-4 if norm == "linf" else 0, "neighbours": 3}
    attacked = AdversarialWeightTuning(**settings)(linear, images, labels, threat)
    difference = (linear[1].weight[1] - linear[1].weight[0]).detach().double()
    expected = 0.1 * (difference.norm(1) if norm == "linf" else difference.norm(2))
    change = (attacked - images).double().flatten(1) @ difference * torch.tensor([1, -1, 1])
    torch.testing.assert_close(change, expected.expand(3), rtol=1e-3, atol=0)


def test_a_symmetric_network_is_tuned_through_its_expanded_kernels() -> None:
    torch.manual_seed(0)
    network = build_network(load_config("train", ["model=invariant_4layer", "data=shapes"])).eval()
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    before, copied = state(network), _private_copy(network)
    with torch.no_grad():
        first = copied(images)
        _Tuning(copied, 0.1, 0.005).step(images, images, (labels, None))
        assert not torch.allclose(copied(images), first, rtol=0, atol=1e-4)
        assert torch.equal(network(images), first)
    assert is_as(network, before)


def test_it_crafts_on_sources_in_an_evaluation(plain: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    source = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    before, own = state(source), state(plain)
    attack = AdversarialWeightTuning(**SHORT)
    protocol = EvaluationProtocol(
        attacks={
            "pgd": PGD(),
            "awt": Transfer([Source("linear", source), Source("itself", plain)], attack),
            "own": attack,
        },
        epsilons=[0.02, 0.1],
    )
    report = evaluate_robustness(plain, *batch, protocol)
    assert {"awt_from_linear", "awt_from_itself", "own"} < set(report.minimal_epsilon)
    assert is_as(source, before)
    assert is_as(plain, own)
    assert report.settings["attacks"]["awt_from_linear"]["attack"]["class"] == "AdversarialWeightTuning"
    assert all(check.status != "failed" for check in report.checks if check.name == "inside_ball")


def test_unsuitable_settings_and_networks_are_refused(plain: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    for settings, named in (
        ({"learning_rate": -1.0}, "learning_rate must not be negative"),
        ({"rho": float("nan")}, "rho"),
        ({"ahead": 2.0}, "ahead must lie between 0 and 1"),
        ({"neighbours": 0}, "neighbours"),
    ):
        with pytest.raises(UserError, match=named):
            AdversarialWeightTuning(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no weights to tune"):
        AdversarialWeightTuning(**SHORT)(
            nn.Flatten().eval(), torch.rand(2, 3, 1, 1), torch.tensor([0, 1]), ThreatModel()
        )
    plain.extra = plain[0].weight.detach() * plain[0].weight  # no leaf, which torch refuses to copy
    with pytest.raises(UserError, match="cannot be copied"):
        AdversarialWeightTuning(**SHORT)(plain, *batch, ThreatModel())
