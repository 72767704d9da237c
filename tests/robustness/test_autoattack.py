"""`robustness=autoattack` and its versions: published settings, worst case, cost, few classes, random networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from symmetry_robustness import load_config
from symmetry_robustness.attacks import APGD, FAB, PGD, Square
from symmetry_robustness.results import RobustnessReport
from symmetry_robustness.results.checks import Check
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_in_shards, evaluate_robustness
from symmetry_robustness.robustness.checks.black_box import compare_with_white_box


def version(name: str, *overrides: str) -> EvaluationProtocol:
    settings = [f"robustness.{override}" for override in overrides]
    config = load_config("evaluate", ["checkpoint=none", f"robustness={name}", *settings]).robustness
    protocol: EvaluationProtocol = instantiate(config, _convert_="all")
    return protocol


def short(*overrides: str) -> EvaluationProtocol:
    """The standard version with few steps."""
    steps = [
        "attacks.apgd_ce.steps=5",
        "attacks.apgd_t.steps=5",
        "attacks.fab_t.iterations=3",
        "attacks.square.steps=20",
    ]
    return version("autoattack", *steps, *overrides)


@pytest.fixture(scope="module")
def ten_classes() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 10)).eval()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return network


def predicted(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1)


def found(report: RobustnessReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def test_settings_are_the_published_ones() -> None:
    standard = {name: vars(attack) for name, attack in version("autoattack").attacks.items()}
    assert list(standard) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert [standard["apgd_t"][name] for name in ("steps", "restarts", "loss", "targeted")] == [100, 9, "dlr", True]
    assert [standard["apgd_ce"][name] for name in ("steps", "restarts", "loss")] == [100, 1, "cross_entropy"]
    assert standard["fab_t"] | {"iterations": 100, "restarts": 9, "targeted": True} == standard["fab_t"]
    assert standard["square"] | {"steps": 5000, "restarts": 1, "share": 0.8} == standard["square"]
    plus = version("autoattack_plus").attacks
    assert list(plus) == ["apgd_ce", "apgd_dlr", "fab", "fab_random", "square", "apgd_t", "fab_t"]
    assert plus["apgd_ce"] == APGD(restarts=5)
    assert plus["fab_random"] == FAB(targeted=False, random_start=True, restarts=4)
    assert version("autoattack_rand").attacks == {"apgd_ce": APGD(draws=20), "apgd_dlr": APGD(draws=20, loss="dlr")}
    assert version("autoattack", "norm=l2", "epsilons=[0.5]").threat(0.5).norm == "l2"


@pytest.mark.parametrize("name", ["autoattack", "autoattack_rand", "strong"])
def test_norms_that_an_attack_does_not_know_are_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(Exception, match="does not work in norm l1; choose norm linf or l2"):
        version(name, "norm=l1")


def test_a_grid_is_as_good_as_each_epsilon_alone(ten_classes: nn.Module, images: Tensor) -> None:
    labels = predicted(ten_classes, images)
    grid = [0.19, 0.21, 0.23]
    whole = evaluate_robustness(ten_classes, images, labels, short(f"epsilons={grid}"))
    for epsilon in grid:
        alone = evaluate_robustness(ten_classes, images, labels, short(f"epsilons=[{epsilon}]"))
        # FAB starts at the image whatever the grid, and random starts belong to image and run, so that only images
        # broken at a smaller epsilon may differ.
        assert (whole.correct("worst_case", epsilon) <= alone.correct("worst_case", epsilon)).all()
    assert 0 < whole.worst_case(0.23).value < whole.worst_case(0.19).value <= 1


def test_report_says_which_attack_broke_an_image_and_at_what_cost(
    ten_classes: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    labels = predicted(ten_classes, images)
    labels[:3] = (labels[:3] + 1) % 10
    report = evaluate_robustness(ten_classes, images, labels, short("epsilons=[0.21]"))
    report = RobustnessReport.load(report.save(tmp_path, "test"))
    by = report.broken_by(0.21)
    assert list(by[:3]) == ["clean"] * 3
    assert (by == "").sum() == report.correct("worst_case", 0.21).sum() > 0
    np.testing.assert_array_equal(by == "apgd_ce", report.clean_correct & ~report.correct("apgd_ce", 0.21))
    passes, given = report.passes, report.clean_correct
    for name, attack in short().attacks.items():
        assert (passes[name][~given] == 0).all()
        whole = attack.restarts * (attack.steps + 1)  # type: ignore[attr-defined]
        given = given & (by != name)
        assert (passes[name][given] == whole).all()
        assert (passes[name] <= whole).all()
        assert name == "fab_t" or (passes[name][by == name] < whole).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_do_not_depend_on_batches_or_shards(
    ten_classes: nn.Module, images: Tensor, norm: str, tmp_path: Path
) -> None:
    labels, epsilon = predicted(ten_classes, images), {"linf": 0.2, "l2": 1.9}[norm]
    protocol = short(f"norm={norm}", f"epsilons=[{epsilon},{1.1 * epsilon}]")
    whole = evaluate_robustness(ten_classes, images, labels, protocol)
    small = evaluate_robustness(ten_classes, images, labels, replace(protocol, batch_size=5))
    shards = evaluate_in_shards(ten_classes, images, labels, protocol, tmp_path, shard_size=7)
    assert shards is not None
    for other in (small, shards):
        for name in protocol.attacks:
            np.testing.assert_array_equal(other.minimal_epsilon[name], whole.minimal_epsilon[name])
    assert len(set(whole.broken_by(1.1 * epsilon))) > 1


@pytest.mark.parametrize(
    ("classes", "status", "words"),
    [
        (10, "passed", ["10 classes"]),
        (5, "passed", ["apgd_t has 4 target classes instead of 9", "fab_t has 4"]),
        (3, "warned", ["apgd_t needs 4 and is left out", "fab_t has 2"]),
        (2, "warned", ["apgd_t needs 4", "fab_t has 1"]),
    ],
)
def test_few_classes_are_attacked_as_far_as_possible(classes: int, status: str, words: list[str]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, classes)).eval()
    images = 0.4 + 0.2 * torch.rand((12, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    report = evaluate_robustness(network, images, predicted(network, images), short("epsilons=[0.0001,0.2]"))
    check = found(report, "enough_classes")
    assert check.status == status
    assert all(word in check.evidence for word in words)
    assert report.worst_case(0.2).value == 0
    assert bool(report.passes["apgd_t"].sum()) == (classes >= 4)


class Shaken(nn.Module):
    """A linear network that moves its logits at random in every pass."""

    def __init__(self, inner: nn.Module, size: float) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits + self.size * torch.randn_like(logits)


def test_the_version_for_random_networks_averages(ten_classes: nn.Module, images: Tensor) -> None:
    torch.manual_seed(0)
    network = Shaken(ten_classes, 0.02).eval()
    labels = predicted(ten_classes, images)
    steps = ["attacks.apgd_ce.steps=5", "attacks.apgd_dlr.steps=5", "epsilons=[0.21]"]
    random = evaluate_robustness(network, images, labels, version("autoattack_rand", *steps))
    assert found(random, "random_outputs").status == "warned"
    assert "20 passes" in found(random, "random_outputs").evidence
    plain = evaluate_robustness(network, images, labels, short("epsilons=[0.21]"))
    assert found(plain, "random_outputs").status == "failed"
    assert "autoattack_rand" in found(plain, "random_outputs").evidence
    withstanding = random.correct("apgd_dlr", 0.21)
    assert (random.passes["apgd_ce"][withstanding] == 20 * 6).all()


def made(square: list[float], white: list[float]) -> RobustnessReport:
    """A report in which a gradient attack and Square break images at these epsilons."""
    rows = np.arange(len(square))
    broken = {"pgd": np.array(white), "square": np.array(square)}
    return RobustnessReport("linf", (0.1,), rows, rows, rows, broken, broken)


@pytest.mark.parametrize(
    ("square", "white", "status"),
    [
        ([np.inf] * 40, [0.1] * 20 + [np.inf] * 20, "passed"),
        ([0.1] * 20 + [np.inf] * 20, [0.1] * 40, "passed"),
        ([0.1] * 2 + [np.inf] * 38, [np.inf] * 40, "passed"),  # two by luck
        ([0.1] * 4 + [np.inf] * 36, [np.inf] * 40, "warned"),
        ([0.1] * 20 + [np.inf] * 20, [np.inf] * 40, "failed"),
    ],
)
def test_a_square_that_beats_gradients_is_noticed(square: list[float], white: list[float], status: str) -> None:
    (check,) = compare_with_white_box(made(square, white), {"pgd": PGD(), "square": Square()})
    assert (check.name, check.status) == ("square_better_than_white_box", status)


def test_needs_no_torchattacks(ten_classes: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchattacks", None)
    labels = predicted(ten_classes, images)
    report = evaluate_robustness(ten_classes, images, labels, short("epsilons=[0.21]"))
    assert found(report, "gradient_free_attack").status == "passed"
    steps = ["attacks.apgd_targeted.steps=3", "attacks.square.steps=5", "attacks.fab_targeted.iterations=2"]
    assert len(evaluate_robustness(ten_classes, images, labels, version("strong", *steps)).distance) == 6
