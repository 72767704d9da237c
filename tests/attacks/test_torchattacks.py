import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import LibraryAttack, ThreatModel
from symmetry_robustness.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("torchattacks")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(288, 5)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def batch(network: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return images, network(images).argmax(1)


@pytest.mark.parametrize(
    ("name", "norm", "settings"),
    [
        ("APGD", "linf", {"steps": 5}),
        ("APGD", "l2", {"steps": 5}),
        ("APGDT", "linf", {"steps": 3}),
        ("FAB", "linf", {"steps": 3}),
        ("Square", "linf", {"n_queries": 20}),
        ("PGDL2", "l2", {"steps": 3}),
        ("CW", "l2", {"steps": 5}),
        ("PIFGSM", "linf", {}),
    ],
)
def test_surroundings_stay_untouched(
    network: nn.Module,
    batch: tuple[Tensor, Tensor],
    name: str,
    norm: str,
    settings: dict[str, object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, labels = batch
    before = {key: value.clone() for key, value in network.state_dict().items()}
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    adversarial = LibraryAttack(name, **settings)(network, images, labels, ThreatModel(norm, 0.3))
    change = (adversarial - images).flatten(1).norm(2 if norm == "l2" else float("inf"), dim=1)
    assert change.max() <= 0.3 + 1e-6
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert capsys.readouterr().out == ""


def test_same_generator_gives_the_same_result(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack, threat = LibraryAttack("PGD", steps=2), ThreatModel()
    results = [attack(network, *batch, threat, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_network_without_parameters_is_attacked() -> None:
    class Halves(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images[:, :, :2].sum((1, 2, 3)), images[:, :, 2:].sum((1, 2, 3))], dim=1)

    images = torch.full((2, 1, 4, 4), 0.5)
    adversarial = LibraryAttack("FGSM")(Halves(), images, torch.tensor([0, 1]), ThreatModel(epsilon=0.25))
    assert (Halves()(adversarial).argmax(1) == torch.tensor([1, 0])).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("APDG", {}, "did you mean APGD"),
        ("Nonsense123", {}, "known are"),
        ("APGD", {"step": 10}, "has no setting 'step'; did you mean steps"),
        ("APGD", {"eps": 0.1}, "eps belongs to the threat"),
        ("APGD", {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ("PGD", {"steps": 2.5}, "steps must be a whole number"),
        ("Square", {"n_queries": 0}, "n_queries must be"),
        ("APGDT", {"n_classes": 1}, "at least 2"),
        ("PGD", {"alpha": "wide"}, "attack PGD: alpha must be a number or a fraction"),
    ],
)
def test_unknown_names_are_refused_with_near_matches(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LibraryAttack(name, **settings)


def test_norm_the_attack_does_not_know_is_refused(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="does not work in norm l2"):
        LibraryAttack("PGD")(network, *batch, ThreatModel("l2", 1.0))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("APGD", {"loss": "foo"}), ("AutoAttack", {"version": "foo"}), ("PGDRS", {"noise_type": "x"})],
)
def test_values_that_the_library_cannot_work_with_are_named(
    network: nn.Module, batch: tuple[Tensor, Tensor], name: str, settings: dict[str, str]
) -> None:
    with pytest.raises(UserError, match=f"attack {name} fails with {next(iter(settings))}='"):
        LibraryAttack(name, **settings)(network, *batch, ThreatModel())


def test_a_fraction_is_a_step(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attacks = [LibraryAttack("PGD", steps=2, alpha=alpha, random_start=False) for alpha in ("1/255", 1 / 255)]
    first, second = (attack(network, *batch, ThreatModel()) for attack in attacks)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["PGDL2", "SparseFool"])
def test_the_memory_order_of_the_gradient_does_not_matter(
    network: nn.Module, batch: tuple[Tensor, Tensor], name: str
) -> None:
    images, labels = batch
    threat = ThreatModel("linf" if name == "SparseFool" else "l2", 0.3)
    expected = LibraryAttack(name, steps=2)(network, images, labels, threat)

    class Backwards(nn.Module):
        """The network, whose gradients come in channels-last order."""

        def forward(self, images: Tensor) -> Tensor:
            return network(images.contiguous(memory_format=torch.channels_last))

    found = LibraryAttack(name, steps=2)(Backwards().eval(), images, labels, threat)
    torch.testing.assert_close(found, expected)
