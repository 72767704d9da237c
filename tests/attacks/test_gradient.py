import warnings

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD, ThreatModel
from symmetry_robustness.attacks.gradient import GradientAttack
from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def batch(network: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return images, network(images).argmax(1)


def library(name: str, network: nn.Module, **settings: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchattacks = pytest.importorskip("torchattacks")
    attack = getattr(torchattacks, name)(network, **settings)
    attack.set_device(torch.device("cpu"))
    return attack  # type: ignore[no-any-return]


@pytest.mark.parametrize("epsilon", [0.01, 8 / 255, 0.3])
def test_fgsm_equals_torchattacks(network: nn.Module, batch: tuple[Tensor, Tensor], epsilon: float) -> None:
    theirs = library("FGSM", network, eps=epsilon)(*batch)
    torch.testing.assert_close(FGSM()(network, *batch, ThreatModel(epsilon=epsilon)), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_pgd_equals_torchattacks(network: nn.Module, batch: tuple[Tensor, Tensor], steps: int) -> None:
    theirs = library("PGD", network, eps=8 / 255, alpha=2 / 255, steps=steps, random_start=False)(*batch)
    ours = PGD(steps=steps, step_size="2/255")(network, *batch, ThreatModel(epsilon=8 / 255))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_l2_pgd_equals_torchattacks(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    theirs = library("PGDL2", network, eps=1.0, alpha=0.2, steps=10, random_start=False)(*batch)
    ours = PGD(steps=10, step_size=0.2)(network, *batch, ThreatModel("l2", 1.0))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_momentum_equals_torchattacks(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    theirs = library("MIFGSM", network, eps=0.1, alpha=0.02, steps=10, decay=0.9)(*batch)
    ours = PGD(steps=10, step_size=0.02, momentum=0.9)(network, *batch, ThreatModel(epsilon=0.1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize(
    "attack",
    [
        {},
        {"random_start": True, "restarts": 3},
        {"momentum": 1.0, "iterate": "best"},
        {"step_size": 0.4},
        {"targeted": True},
    ],
    ids=str,
)
def test_result_lies_in_ball_and_bounds(
    network: nn.Module, batch: tuple[Tensor, Tensor], norm: str, loss: str, attack: dict[str, object]
) -> None:
    images, labels = batch
    threat = ThreatModel(norm, 0.2)
    adversarial = PGD(steps=5, loss=loss, **attack)(network, images, labels, threat)  # type: ignore[arg-type]
    assert (NORMS[norm].length((adversarial - images).double()) <= 0.2 + 1e-6).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not torch.equal(adversarial, images)


@pytest.mark.parametrize(("attack", "norm"), [(FGSM(), "linf"), (PGD(steps=20), "linf"), (PGD(steps=20), "l2")])
def test_linear_network_is_attacked_optimally(attack: GradientAttack, norm: str) -> None:
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(4))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    linear[1].weight.data = weight
    images = torch.full((3, 3, 4, 4), 0.5)
    labels = torch.tensor([0, 1, 0])
    adversarial = attack(linear, images, labels, ThreatModel(norm, 0.1))
    # The change of the margin is epsilon times the dual norm of the difference of the weights.
    difference = (weight[1] - weight[0]).double()
    expected = 0.1 * (difference.norm(1) if norm == "linf" else difference.norm(2))
    change = (adversarial - images).double().flatten(1) @ difference
    torch.testing.assert_close(change * torch.tensor([1, -1, 1]), expected.expand(3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_l1_attack_spends_its_length_on_the_pixels_that_matter_most(epsilon: float) -> None:
    difference = torch.randn(48, generator=torch.Generator().manual_seed(4))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 2, bias=False))
    linear[1].weight.data = torch.stack([-difference / 2, difference / 2])
    images = torch.full((1, 3, 4, 4), 0.5)
    adversarial = PGD(steps=100)(linear, images, torch.tensor([0]), ThreatModel("l1", epsilon))
    gain = float((adversarial - images).flatten() @ difference)
    # A pixel can move by a half, so the best change moves the largest few as far as they go.
    moves = (epsilon - 0.5 * torch.arange(48)).clamp(0, 0.5)
    best = float(difference.abs().sort(descending=True).values @ moves)
    assert 0.95 * best <= gain <= best + 1e-4


def test_targeted_attack_reaches_its_target(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    targets = (labels + 1) % 5
    adversarial = PGD(steps=40, targeted=True)(network, images, targets, ThreatModel(epsilon=0.5))
    assert (network(adversarial).argmax(1) == targets).float().mean() > 0.8


def test_best_iterate_is_at_least_as_harmful_as_the_last(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    threat, loss = ThreatModel(epsilon=0.03), nn.CrossEntropyLoss(reduction="none")
    last, best = (
        PGD(steps=9, step_size=0.03, iterate=which)(network, images, labels, threat) for which in ("last", "best")
    )
    assert (loss(network(best), labels) >= loss(network(last), labels) - 1e-6).all()


def test_start_of_an_image_does_not_depend_on_its_batch(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    attack, threat = PGD(steps=3, random_start=True), ThreatModel("l2", 0.5)
    whole = attack(network, images, labels, threat, [keyed_generator(0, i) for i in range(6)])
    part = attack(network, images[4:], labels[4:], threat, [keyed_generator(0, i) for i in (4, 5)])
    torch.testing.assert_close(whole[4:], part, rtol=0, atol=1e-5)


def test_network_and_random_state_stay_untouched(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    with torch.no_grad():
        PGD(steps=2, random_start=True)(network, *batch, ThreatModel())
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_attack_runs_in_float32_inside_autocast(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    plain = PGD(steps=3)(network, *batch, ThreatModel())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(PGD(steps=3)(network, *batch, ThreatModel()), plain)


def test_inference_mode_is_refused(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        FGSM()(network, *batch, ThreatModel())


def test_training_mode_is_refused(batch: tuple[Tensor, Tensor]) -> None:
    training = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(UserError, match=r"training mode \(1 layers, first 0\)"):
        FGSM()(training, *batch, ThreatModel())


def test_non_finite_logits_are_refused(batch: tuple[Tensor, Tensor]) -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    broken[1].bias.data[2] = float("nan")
    with pytest.raises(UserError, match="non-finite logits for 6 of 6 images"):
        PGD()(broken, *batch, ThreatModel())


def test_labels_of_another_shape_are_refused(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="labels must be int64"):
        FGSM()(network, batch[0], batch[1][:3], ThreatModel())


def test_dlr_needs_three_classes() -> None:
    with pytest.raises(UserError, match="at least 3 classes"):
        PGD(loss="dlr")(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2), torch.tensor([0]), ThreatModel()
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"restarts": 2},
        {"step_size": -1},
        {"step_size": 0.1, "relative_step_size": 0.1},
        {"momentum": -0.1},
        {"loss": "crossentropy"},
        {"iterate": "first"},
        {"random_start": True, "restarts": 0},
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        PGD(**settings)  # type: ignore[arg-type]
