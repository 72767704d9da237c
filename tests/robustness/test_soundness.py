"""Every planted defect is found by a check of a known name, and sound networks pass all of them."""

import copy
import cProfile
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness import load_config
from symmetry_robustness.attacks import FGSM, PGD, Square, ThreatModel, TorchAttack
from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.results.checks import EXPLANATIONS
from symmetry_robustness.robustness import (
    CertifiedRadius,
    Clever,
    EquivarianceError,
    EvaluationProtocol,
    MinimalDistance,
    RobustnessReport,
    evaluate_robustness,
)
from symmetry_robustness.robustness.checks import derived

from ..once import once_for_all_workers
from .trained import ON_BLOBS, SOUND, blobs, shapes

PROTOCOL = EvaluationProtocol(
    attacks={"fgsm": FGSM(), "pgd": PGD(steps=20)}, epsilons=[1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255]
)
SIZE = 120
OF_TRAINING = "catastrophic_overfitting"  # judged by the training's callback
OF_DETECTORS = {"same_preprocessing", "false_positive_rate"}


# Of the training, the images and all that an evaluation draws; one, or as many as `make test-seeds` asks for.
at_every_seed = pytest.mark.parametrize("seed", range(int(os.environ.get("SYMROB_SEEDS", "1"))), scope="module")


@once_for_all_workers
def sound(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SOUND[name]()


def images_of(name: str, seed: int) -> tuple[Tensor, Tensor]:
    return (blobs if name in ON_BLOBS else shapes)(SIZE, 12 + seed)


@once_for_all_workers
def judged(name: str, seed: int) -> RobustnessReport:
    """A sound network's report, which several tests ask about."""
    return evaluate_robustness(sound(name, seed), *images_of(name, seed), dataclasses.replace(PROTOCOL, seed=seed))


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


@pytest.fixture(scope="module")
def cheap(protocol: EvaluationProtocol) -> EvaluationProtocol:
    """For what is found without attacking again."""
    return dataclasses.replace(protocol, checks="cheap")


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
def test_sound_networks_raise_no_alarm(name: str, seed: int) -> None:
    report = judged(name, seed)
    assert report.clean_accuracy > 0.4
    assert [check for check in report.checks if check.status != "passed"] == []


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["quick", "paper", "strong"])
@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_raise_no_false_alarm_under_the_usual_protocols(name: str, choice: str) -> None:
    node = load_config("evaluate", ["checkpoint=x", f"robustness={choice}"]).robustness
    protocol, network, images = instantiate(node, _convert_="all"), sound(name, 0), images_of(name, 0)
    report = evaluate_robustness(network, *images, protocol)
    alarms = {check.name: check for check in report.checks if check.status != "passed"}
    if warning := alarms.pop("other_loss", None):  # true where another loss does lower the accuracy
        assert (choice, warning.status) == ("paper", "warned")
        margin = dataclasses.replace(PROTOCOL, attacks={"margin": PGD(steps=40, loss="margin")}, epsilons=protocol.grid)
        margin = evaluate_robustness(network, *images, dataclasses.replace(margin, checks="cheap"))
        gaps = [report.worst_case(epsilon).value - margin.worst_case(epsilon).value for epsilon in protocol.grid]
        assert max(gaps) > 0.05
    assert alarms == {}


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_sound_network_raises_no_alarm_in_other_norms(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol, norm: str
) -> None:
    epsilons = {"l2": [0.1, 0.3, 1.0], "l1": [0.5, 2.0, 8.0]}[norm]
    report = evaluate_robustness(trained, *sample, dataclasses.replace(protocol, norm=norm, epsilons=epsilons))
    assert [check for check in report.checks if check.status != "passed"] == []
    assert report.worst_case(epsilons[-1]).value < 0.5 * report.clean_accuracy


def test_every_check_runs_and_explains_itself(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    clever = Clever(norm="linf", radius=0.1, num_batches=4, samples_per_batch=4, estimate="maximum", targets="top-1")
    attacks = {**protocol.attacks, "square": Square(steps=5)}
    measures = {"certified": CertifiedRadius(method="interval", images=4)}
    protocol = dataclasses.replace(protocol, attacks=attacks, clever=clever, clever_images=4, measures=measures)
    checks = evaluate_robustness(trained, *sample, protocol).checks
    assert {check.name for check in checks} == set(EXPLANATIONS) - {OF_TRAINING} - OF_DETECTORS
    assert all(check.explanation.endswith(".") and check.evidence for check in checks)


def test_the_cheap_checks_attack_nothing_again(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    found = statuses(trained, sample, protocol, checks="cheap")
    assert set(found.values()) == {"passed"}
    expensive = {"longer_attack", "other_loss", "noise_attack", "transfer_attack", "gradient_free_attack"}
    expensive |= {"zero_at_large_epsilon", "sees_whole_range", "normalized_once"}
    absent = {"bounds_below_distance", "certificates_below_distance", "square_better_than_white_box"}
    absent |= {"measures_defined", OF_TRAINING, *OF_DETECTORS}
    assert set(EXPLANATIONS) - set(found) == expensive | absent  # without such measures and attacks


def test_checks_are_the_same_twice() -> None:
    again = evaluate_robustness(sound("plain", 0), *images_of("plain", 0), PROTOCOL)
    assert again.checks == judged("plain", 0).checks


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


def adapted(network: nn.Module, images: Tensor) -> Tensor:
    with torch.enable_grad():
        moved = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network(moved).logsumexp(1).sum(), moved)
    logits: Tensor = network(images + 0.01 * gradient.sign())
    return logits


def reseeded(network: nn.Module, images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    logits: Tensor = network(images + 0.03 * noise)
    return logits


NETWORKS: Mapping[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, str]]] = {
    "saturated softmax": (
        lambda net, x: (net(x) * 20).softmax(1).log().clamp_min(-1e3),
        {"zero_at_large_epsilon": "failed", "transfer_attack": "failed"},
    ),
    "quantised input": (
        quantised,
        {"zero_gradients": "failed", "gradient_matches_difference": "failed", "transfer_attack": "failed"},
    ),
    "shattered gradient": (shattered, {"gradient_matches_difference": "failed"}),
    "detached": (
        lambda net, x: net(x.detach()),
        {"zero_gradients": "failed", "zero_at_large_epsilon": "failed", "transfer_attack": "failed"},
    ),
    "detached branch": (half_detached, {"gradient_matches_difference": "failed", "transfer_attack": "failed"}),
    "chance": (noisy, {"random_outputs": "failed"}),
    "the same chance in every batch": (reseeded, {"batch_independent": "failed"}),
    "detour through numpy": (
        lambda net, x: net(torch.from_numpy(x.detach().cpu().numpy())),
        {"zero_gradients": "failed", "transfer_attack": "warned"},
    ),
    "probabilities": (lambda net, x: net(x).softmax(1), {"softmax_outputs": "failed"}),
    "adaptation": (adapted, {"optimization_in_forward": "warned"}),
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


def test_a_profiler_goes_on_after_an_evaluation(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    def called_afterwards() -> None:
        """Be seen."""

    with cProfile.Profile() as profile:
        statuses(trained, sample, protocol)
        called_afterwards()
    assert called_afterwards.__code__ in [entry.code for entry in profile.getstats()]


@at_every_seed
@pytest.mark.parametrize("scale", [20, 100, 1e4])
def test_large_logits_do_not_look_more_robust(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol, seed: int, scale: float
) -> None:
    honest = judged("plain", seed)
    scaled = evaluate_robustness(Function(trained, lambda net, x: scale * net(x)).eval(), *sample, protocol)
    for name in protocol.attacks:
        for epsilon in protocol.grid:
            assert scaled.accuracy(name, epsilon).value <= honest.accuracy(name, epsilon).value + 3 / SIZE
    assert [check for check in scaled.checks if check.status != "passed"] == []


@at_every_seed
@pytest.mark.parametrize("stored", ["all", "half"])
def test_a_network_that_stores_the_test_images_is_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol, stored: str
) -> None:
    images, labels = sample
    memory = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    if stored == "half":
        memory = dict(list(memory.items())[: SIZE // 2])

    def remember(net: nn.Module, x: Tensor) -> Tensor:
        known = [memory.get(image.numpy().tobytes(), -1) for image in x.detach()]
        answer = torch.tensor(known)
        logits: Tensor = net(x)
        bonus = 50.0 * functional.one_hot(answer.clamp_min(0), logits.shape[1])
        return logits + torch.where(answer >= 0, 1.0, 0.0)[:, None] * bonus

    network = Function(trained, remember).eval()
    found = statuses(network, sample, protocol, checks="cheap", attacks={})
    assert found["stable_under_noise"] == "failed" if stored == "all" else found["stable_under_noise"] != "passed"


@at_every_seed
def test_an_attack_whose_loss_rounds_on_large_logits_is_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    large = Function(trained, lambda net, x: 100 * net(x)).eval()
    attacks = {"pgd": TorchAttack("PGD", steps=20, alpha="1/255", random_start=False)}
    found = statuses(large, sample, protocol, attacks=attacks, epsilons=[4 / 255])
    assert (found["other_loss"], found["transfer_attack"]) == ("failed", "failed")


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
        (TorchAttack("PGD", alpha=1e-4, steps=5, random_start=False), "step_reaches_edge"),
        (PGD(steps=1, relative_step_size=1.0), "longer_attack"),
        (FGSM(), "gradient_free_attack"),
        (PGD(steps=3), "enough_steps"),
        (TorchAttack("PGD", steps=3), "enough_steps"),
        (TorchAttack("PGD", alpha="0.05/255"), "step_reaches_edge"),
        (TorchAttack("Square", n_queries=1), "enough_steps"),
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
    trained: nn.Module, sample: tuple[Tensor, Tensor], cheap: EvaluationProtocol
) -> None:
    assert statuses(trained, sample, cheap, attacks={"outside": outside})["inside_ball"] == "failed"


@at_every_seed
def test_wrong_bounds_are_found(trained: nn.Module, sample: tuple[Tensor, Tensor], cheap: EvaluationProtocol) -> None:
    for bounds in ((0.5, 1.0), (-1.0, 1.0)):
        assert statuses(trained, sample, cheap, bounds=bounds)["protocol_settings"] == "failed"
    assert statuses(trained, sample, cheap, bounds=(0.5, 1.0))["images_in_bounds"] == "failed"


@at_every_seed
def test_images_outside_the_range_are_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], cheap: EvaluationProtocol
) -> None:
    images, labels = sample
    for bounds in ((0.0, 1.0), (-1.0, 1.0)):
        assert statuses(trained, (2 * images - 1, labels), cheap, bounds=bounds)["images_in_bounds"] == "failed"


@at_every_seed
def test_wrong_labels_are_found(trained: nn.Module, sample: tuple[Tensor, Tensor], cheap: EvaluationProtocol) -> None:
    images, labels = sample
    assert statuses(trained, (images, (labels + 1) % 10), cheap)["clean_accuracy"] == "failed"
    shuffled = labels[torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))]
    assert statuses(trained, (images, shuffled), cheap)["clean_accuracy"] != "passed"


def test_accuracy_below_the_expected_one_is_found(
    trained: nn.Module, sample: tuple[Tensor, Tensor], cheap: EvaluationProtocol
) -> None:
    twice = nn.Sequential(Normalize(0.5, 0.5), trained)
    assert statuses(trained, sample, cheap, expected_clean_accuracy=0.6)["clean_accuracy"] == "passed"
    assert statuses(twice, sample, cheap, expected_clean_accuracy=0.6)["clean_accuracy"] == "failed"
    with pytest.raises(UserError, match="expected_clean_accuracy"):
        dataclasses.replace(PROTOCOL, expected_clean_accuracy=60)


def test_non_finite_logits_count_as_wrong_in_one_line(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    report = evaluate_robustness(Function(trained, lambda net, x: net(x) * float("nan")), *sample, protocol)
    assert report.clean_accuracy == 0
    check = {check.name: check for check in report.checks}["finite_logits"]
    assert check == ("finite_logits", "failed", f"{SIZE} of {SIZE} images have non-finite logits")


def test_measures_that_apply_to_no_image_have_no_mean(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol, tmp_path: Path
) -> None:
    network = Function(trained, lambda net, x: net(x) * float("nan")).eval()
    protocol = dataclasses.replace(protocol, measures={"symmetry": EquivarianceError()})
    report = evaluate_robustness(network, *sample, protocol)
    mean = report.measured("symmetry", "turn.error.logits")
    assert np.isnan(mean.value)
    assert mean.images == 0
    assert RobustnessReport.load(report.save(tmp_path, "nan")).clean_accuracy == 0


def test_a_network_that_computes_its_last_step_in_half_precision_is_evaluated(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    half = Function(trained, lambda net, x: net(x).half()).eval()
    attacks = {"pgd": PGD(steps=20), "square": TorchAttack("Square", n_queries=20)}
    found = statuses(half, sample, protocol, attacks=attacks, epsilons=[4 / 255])
    assert "warned" not in (found["gradient_free_attack"], found["transfer_attack"])


def test_infinite_gradients_fail_a_check_and_leave_clever_nothing(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    network = Function(trained, NETWORKS["non-finite gradient"][0]).eval()
    clever = Clever(num_batches=2, samples_per_batch=4, estimate="maximum", targets="top-1")
    report = evaluate_robustness(network, *sample, dataclasses.replace(protocol, attacks={}, clever=clever))
    assert report.measures["clever"]["value"].tolist() == [0.0] * SIZE
    assert {check.name: check.status for check in report.checks}["finite_gradients"] == "failed"


def test_clever_is_held_against_distances_in_its_norm(
    trained: nn.Module, sample: tuple[Tensor, Tensor], protocol: EvaluationProtocol
) -> None:
    clever = Clever(num_batches=4, samples_per_batch=8, estimate="maximum", targets="top-1")
    measures = {"l2": MinimalDistance(norm="l2", smallest=0.02, largest=5.12, images=20)}
    protocol = dataclasses.replace(protocol, clever=clever, clever_images=10, measures=measures)
    report = evaluate_robustness(trained, *sample, protocol)
    check = {check.name: check for check in report.checks}["bounds_below_distance"]
    assert check.status == "passed"
    clever_arrays = report.measures["clever"]
    higher = {**report.measures, "clever": {**clever_arrays, "value": clever_arrays["value"] + 10}}
    raised = dataclasses.replace(report, measures=higher)
    found = {check.name: check for check in derived.add_derived_checks(raised, protocol.attacks).checks}[
        "bounds_below_distance"
    ]
    assert found.status == "warned"


def test_a_certified_radius_beyond_a_distance_fails(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    measures = {"certified": CertifiedRadius(), "distance": MinimalDistance(smallest=0.001, largest=0.3)}
    protocol = EvaluationProtocol(epsilons=(), measures=measures, checks="cheap")
    report = evaluate_robustness(network, images, labels, protocol)

    def status(radius: npt.NDArray[np.float64]) -> str:
        changed = {**report.measures, "certified": {**report.measures["certified"], "radius": radius}}
        checks = derived.add_derived_checks(dataclasses.replace(report, measures=changed), {}).checks
        return {check.name: check.status for check in checks}["certificates_below_distance"]

    radius, distance = report.measures["certified"]["radius"], report.measures["distance"]["distance"]
    assert status(radius) == "passed"
    beyond = radius.copy()
    row = int(np.flatnonzero((distance > 0) & ~report.measures["distance"]["saturated"])[0])
    beyond[row] = distance[row] * (1 + 1e-6)
    assert status(beyond) == "failed"


def test_one_image_more_under_many_steps_is_luck_and_many_are_not() -> None:
    single, iterative = np.ones((100, 2), dtype=bool), np.ones((100, 2), dtype=bool)
    single[:50] = iterative[:49] = False
    check = derived.iterative_at_least_single
    assert check({"fgsm": single}, {"pgd": iterative}).status == "passed"
    iterative[40:49] = True
    assert check({"fgsm": single}, {"pgd": iterative}).status == "warned"
    iterative[20:49] = True
    assert check({"fgsm": single}, {"pgd": iterative}).status == "failed"


def test_a_young_batch_norm_is_not_held_against_its_statistics() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 196, 10))
    images, labels = shapes(40, 3)
    found = {}
    for batches in (2, 100):
        network.train()
        for _ in range(batches):
            network(images * 9)
        report = evaluate_robustness(network.eval(), images, labels, EvaluationProtocol(attacks={}))
        found[batches] = {check.name: check.status for check in report.checks}["statistics_match"]
    assert found == {2: "passed", 100: "warned"}
