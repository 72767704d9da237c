"""Every planted defect is found by a check of a known name, and sound networks pass all of them."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.attacks import FGSM, PGD, LibraryAttack, ThreatModel
from symmetry_robustness.errors import UserError
from symmetry_robustness.explanations import EXPLANATIONS
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.robustness import Clever, EvaluationProtocol, evaluate_robustness

from .trained import SOUND, blobs, shapes

PROTOCOL = EvaluationProtocol(
    attacks={"fgsm": FGSM(), "pgd": PGD(steps=20)}, epsilons=[1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255]
)
SIZE = 120


# Of the training, the images and all that an evaluation draws.
at_every_seed = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))], scope="module"
)


@functools.cache
def sound(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SOUND[name]()


@pytest.fixture(scope="module")
def seed() -> int:
    return 0


@pytest.fixture(scope="module")
def trained(seed: int) -> nn.Module:
    return sound("plain", seed)


@pytest.fixture(scope="module")
def sample(seed: int) -> tuple[Tensor, Tensor]:
    return shapes(SIZE, 12 + seed)


@pytest.fixture(scope="module")
def protocol(seed: int) -> EvaluationProtocol:
    return dataclasses.replace(PROTOCOL, seed=seed)


def statuses(
    network: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol, **settings: object
) -> dict[str, str]:
    changed = dataclasses.replace(protocol, **settings)  # type: ignore[arg-type]
    return {check.name: check.status for check in evaluate_robustness(network, *sample, changed).checks}


class Function(nn.Module):
    """A function of a network and its input as a network."""

    def __init__(self, network: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.network, images)


class SeenBatch(nn.Module):
    """Batch statistics without any layer that has a training mode."""

    def forward(self, images: Tensor) -> Tensor:
        return functional.batch_norm(images, None, None, training=True)


@at_every_seed
@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_raise_no_alarm(name: str, seed: int, protocol: EvaluationProtocol) -> None:
    images, labels = (blobs if name == "linear" else shapes)(SIZE, 12 + seed)
    report = evaluate_robustness(sound(name, seed), images, labels, protocol)
    assert report.clean_accuracy > 0.4
    assert [check for check in report.checks if check.status != "passed"] == []


def test_every_check_runs_and_explains_itself(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    clever = Clever(norm="linf", radius=0.1, num_batches=4, samples_per_batch=4, estimate="maximum", targets="top-1")
    protocol = dataclasses.replace(protocol, clever=clever, clever_images=4)
    checks = evaluate_robustness(trained, *sample, protocol).checks
    assert {check.name for check in checks} == set(EXPLANATIONS)
    assert all(check.explanation.endswith(".") and check.evidence for check in checks)


def test_the_cheap_checks_attack_nothing_again(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    found = statuses(trained, sample, protocol, checks="cheap")
    assert set(found.values()) == {"passed"}
    expensive = {"longer_attack", "other_loss", "noise_attack", "transfer_attack", "gradient_free_attack"}
    expensive |= {"zero_at_large_epsilon", "sees_whole_range"}
    assert set(EXPLANATIONS) - set(found) == expensive | {"clever_below_distance"}


def test_checks_are_the_same_twice(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    first, second = (evaluate_robustness(trained, *sample, protocol).checks for _ in range(2))
    assert first == second


def quantised(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network((images * 16).round() / 16)
    return logits


def shattered(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images + 0.004 * torch.sin(4000 * images))
    return logits


def half_detached(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images.detach()) + 0.1 * images.flatten(1)[:, :10]
    return logits


def noisy(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images + 0.02 * torch.randn_like(images))
    return logits


NETWORKS: Mapping[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, str]]] = {
    "logits without end": (
        lambda net, x: net(x) * 1e4,
        {"nonzero_gradients": "failed", "other_loss": "failed", "transfer_attack": "failed"},
    ),
    "large logits": (
        lambda net, x: net(x) * 100,
        {"zero_at_large_epsilon": "failed", "other_loss": "failed", "transfer_attack": "failed"},
    ),
    "saturated softmax": (
        lambda net, x: (net(x) * 20).softmax(1).log().clamp_min(-1e3),
        {"zero_at_large_epsilon": "failed", "transfer_attack": "failed"},
    ),
    "quantised input": (
        quantised,
        {"nonzero_gradients": "failed", "gradient_matches_difference": "failed", "transfer_attack": "failed"},
    ),
    "shattered gradient": (shattered, {"gradient_matches_difference": "failed"}),
    "detached": (
        lambda net, x: net(x.detach()),
        {"nonzero_gradients": "failed", "zero_at_large_epsilon": "failed", "transfer_attack": "failed"},
    ),
    "detached branch": (half_detached, {"gradient_matches_difference": "failed", "transfer_attack": "failed"}),
    "chance": (noisy, {"deterministic_forward": "failed"}),
    "wrong clamp": (lambda net, x: net(x.clamp(0.5, 1)), {"sees_whole_range": "failed"}),
    "batch statistics": (lambda net, x: net(SeenBatch()(x) * 0.2 + 0.5), {"batch_independent": "failed"}),
    "normalised twice": (lambda net, x: net(Normalize(0.5, 0.5)(x)), {"statistics_match": "warned"}),
    "non-finite gradient": (
        lambda net, x: net(x) + (0 * x).sqrt().sum((1, 2, 3))[:, None],
        {"finite_gradients": "failed"},
    ),
    "non-finite logits": (lambda net, x: net(x) / (x[:, 0, 0, :1] < 0.5), {"finite_logits": "failed"}),
}


@at_every_seed
@pytest.mark.parametrize("defect", NETWORKS)
def test_defects_of_networks_are_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol, defect: str
) -> None:
    function, expected = NETWORKS[defect]
    found = statuses(Function(trained, function).eval(), sample, protocol)
    assert {name: found[name] for name in expected} == expected


@at_every_seed
def test_training_mode_is_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    forgotten = copy.deepcopy(trained).train()
    found = statuses(forgotten, sample, protocol)
    assert (found["evaluation_mode"], found["batch_independent"]) == ("failed", "failed")
    for name, value in trained.state_dict().items():
        assert torch.equal(value, forgotten.state_dict()[name])


@at_every_seed
@pytest.mark.parametrize(
    ("attack", "check"),
    [
        (PGD(steps=20, step_size=1e-4), "step_reaches_edge"),
        (PGD(steps=20, step_size=1e-4), "longer_attack"),
        (LibraryAttack("PGD", alpha=1e-4, steps=5, random_start=False), "step_reaches_edge"),
        (PGD(steps=1, relative_step_size=1.0), "longer_attack"),
        (FGSM(), "gradient_free_attack"),
        (PGD(steps=3), "enough_steps"),
        (LibraryAttack("PGD", steps=3), "enough_steps"),
    ],
    ids=str,
)
def test_weak_attacks_are_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol, attack: PGD, check: str
) -> None:
    found = statuses(trained, sample, protocol, attacks={"weak": attack}, epsilons=[64 / 255])
    assert found[check] != "passed"


def outside(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object = None
) -> Tensor:
    """An attack that clamps to half of the range and so leaves its ball."""
    return images.clamp(0.5, 1)


@at_every_seed
def test_an_attack_that_leaves_its_ball_is_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    assert statuses(trained, sample, protocol, attacks={"outside": outside})["inside_ball"] == "failed"


@at_every_seed
def test_wrong_bounds_are_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    for bounds in ((0.5, 1.0), (-1.0, 1.0)):
        assert statuses(trained, sample, protocol, bounds=bounds)["protocol_settings"] == "failed"
    assert statuses(trained, sample, protocol, bounds=(0.5, 1.0))["images_in_bounds"] == "failed"


@at_every_seed
def test_images_outside_the_range_are_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    images, labels = sample
    for bounds in ((0.0, 1.0), (-1.0, 1.0)):
        assert statuses(trained, (2 * images - 1, labels), protocol, bounds=bounds)["images_in_bounds"] == "failed"


@at_every_seed
def test_wrong_labels_are_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    images, labels = sample
    assert statuses(trained, (images, (labels + 1) % 10), protocol)["clean_accuracy"] == "failed"
    shuffled = labels[torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))]
    assert statuses(trained, (images, shuffled), protocol)["clean_accuracy"] != "passed"


def test_accuracy_below_the_expected_one_is_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    twice = nn.Sequential(Normalize(0.5, 0.5), trained)
    assert statuses(trained, sample, protocol, expected_clean_accuracy=0.6)["clean_accuracy"] == "passed"
    assert statuses(twice, sample, protocol, expected_clean_accuracy=0.6)["clean_accuracy"] == "failed"
    with pytest.raises(UserError, match="expected_clean_accuracy"):
        dataclasses.replace(PROTOCOL, expected_clean_accuracy=60)


def test_non_finite_logits_count_as_wrong_in_one_line(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    report = evaluate_robustness(Function(trained, lambda net, x: net(x) * float("nan")), *sample, protocol)
    assert report.clean_accuracy == 0
    check = {check.name: check for check in report.checks}["finite_logits"]
    assert check == ("finite_logits", "failed", f"{SIZE} of {SIZE} images have non-finite logits")
