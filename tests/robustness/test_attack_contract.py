"""The evaluator asks attacks, never their class: a user's attack is treated as ours, and his update rule is driven."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD, Attack, ThreatModel, TorchAttack, UpdateRule, as_attack
from symmetry_robustness.attacks.base import Memory, Pass
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness
from symmetry_robustness.robustness.sharding import default_shard_size

GRID = (0.002, 0.005, 0.01, 0.02)


@dataclass
class Smallest:
    """A search for the smallest step along the sign of the gradient, whatever epsilon is."""

    calls: list[int] = field(default_factory=list)
    minimizes_norm: ClassVar = True

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object = None
    ) -> Tensor:
        self.calls.append(len(images))
        far = FGSM()(network, images, labels, ThreatModel("linf", 1.0))
        best, done = images.clone(), torch.zeros(len(images), dtype=torch.bool)
        for length in np.arange(0.001, 0.1, 0.001):
            moved = images + (far - images).clamp(-length, length)
            found = (network(moved).argmax(1) != labels) & ~done
            best, done = torch.where(found[:, None, None, None], moved, best), done | found
        return best


def test_an_attack_that_minimizes_the_norm_is_called_once_per_image(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    attack = Smallest()
    protocol = EvaluationProtocol(attacks={"own": attack}, epsilons=GRID, batch_size=7)
    report = evaluate_robustness(network, images, labels, protocol)
    assert sum(attack.calls) == report.clean_correct.sum()
    broken = report.minimal_epsilon["own"]
    assert len(np.unique(broken)) >= 4
    found = np.isfinite(broken) & (broken > 0)
    grid = np.array(GRID)
    np.testing.assert_array_equal(grid[np.searchsorted(grid, report.distance["own"][found] - 1e-7)], broken[found])
    assert {check.name: check.status for check in report.checks}["inside_ball"] == "passed"


@dataclass(frozen=True)
class OneStep:
    """FGSM, or nothing, with a number of steps."""

    steps: int = 1
    strong: bool = True

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object = None
    ) -> Tensor:
        return FGSM()(network, images, labels, threat) if self.strong else images


@pytest.mark.parametrize(("steps", "status"), [(1, "failed"), (10, "passed")])
def test_an_attack_that_states_one_step_counts_as_single_step(
    network: nn.Module, images: Tensor, labels: Tensor, steps: int, status: str
) -> None:
    attacks = {"strong": OneStep(steps), "weak": OneStep(20, strong=False)}
    protocol = EvaluationProtocol(attacks=attacks, epsilons=[0.05], checks="cheap")
    checks = {check.name: check.status for check in evaluate_robustness(network, images, labels, protocol).checks}
    assert checks.get("iterative_at_least_single", "passed") == status
    assert checks["enough_steps"] == "passed"


def test_a_plain_function_gets_defaults() -> None:
    def plain(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object) -> Tensor:
        return images

    attack = as_attack(plain)
    assert isinstance(attack, Attack)
    assert (attack.steps, attack.minimizes_norm, attack.is_random, attack.update_rule) == (None, False, True, None)
    assert attack.describe() == {"class": "function"}
    assert as_attack(OneStep(3)).steps == 3
    assert as_attack(OneStep(3)).describe() == {"class": "OneStep", "steps": 3, "strong": True}
    for own in (PGD(), FGSM(), attack):
        assert as_attack(own) is own


def test_attacks_of_the_library_state_their_properties() -> None:
    pytest.importorskip("torchattacks")
    assert TorchAttack("FGSM").steps == 1
    assert not TorchAttack("FGSM").is_random
    assert TorchAttack("PGD", steps=3).steps == 3
    assert not TorchAttack("PGD", random_start=False).is_random
    assert (TorchAttack("Square").steps, TorchAttack("Square").is_random) == (5000, True)
    assert TorchAttack("DeepFool").minimizes_norm
    assert TorchAttack("APGD", steps=5).describe() == {"class": "torchattacks.APGD", "steps": 5}


@dataclass(frozen=True)
class RandomSearch(UpdateRule):
    """Keeps random steps that raise the margin loss; without gradients, with memory and seeds of its own."""

    steps: int = 12
    random_start = True
    uses_gradient = False
    iterate = "best"
    loss = "margin"

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: object) -> Memory:
        seeds = torch.stack([torch.randint(2**31, (1,), generator=one) for one in source])  # type: ignore[attr-defined]
        return {"iterate": images, "best": images, "loss": torch.full_like(epsilon, -torch.inf), "seed": seeds}

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        wrong = result.logits.scatter(1, result.labels[:, None], -torch.inf).amax(1)
        loss = wrong - result.logits.gather(1, result.labels[:, None]).squeeze(1)
        better = loss > memory["loss"]
        best = torch.where(better[:, None, None, None], memory["iterate"], memory["best"])
        signs = torch.stack(
            [
                torch.rand(best.shape[1:], generator=torch.Generator().manual_seed(int(seed) + int(number))) - 0.5
                for seed, number in zip(memory["seed"], result.step, strict=True)
            ]
        ).sign()
        moved = best + result.epsilon[:, None, None, None] * signs
        return memory | {
            "iterate": threat.project(moved, result.images, result.epsilon),
            "best": best,
            "loss": torch.maximum(loss, memory["loss"]),
        }


@dataclass(frozen=True)
class Driven:
    """An attack whose rule only the evaluator drives."""

    update_rule: UpdateRule

    def __call__(self, *arguments: object, **settings: object) -> Tensor:
        raise AssertionError("called although it has a rule")


def test_a_rule_with_memory_and_without_gradients_is_driven(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack = Driven(RandomSearch())
    reports = []
    for batch_size in (3, 7, 64):
        protocol = EvaluationProtocol(attacks={"own": attack}, epsilons=GRID, batch_size=batch_size)
        reports.append(evaluate_robustness(network, images, labels, protocol))
    for other in reports[1:]:
        np.testing.assert_array_equal(other.minimal_epsilon["own"], reports[0].minimal_epsilon["own"])
    assert len(np.unique(reports[0].minimal_epsilon["own"])) >= 3
    assert reports[0].counts["gradients.own"] == 0


def test_shards_are_large_where_the_evaluator_drives_all_attacks() -> None:
    def plain(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object) -> Tensor:
        return images

    device = torch.device("cpu")
    own = EvaluationProtocol(attacks={"a": Driven(RandomSearch()), "b": FGSM()})
    called = EvaluationProtocol(attacks={"a": plain, "b": FGSM()})
    assert default_shard_size(own, device) > default_shard_size(called, device)


def own_fgsm(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object = None
) -> Tensor:
    moved = images.clone().requires_grad_()
    nn.functional.cross_entropy(network(moved), labels).backward()
    assert moved.grad is not None
    return (images + threat.epsilon * moved.grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("kind", ["plain", "in place", "float64", "no_grad"])
def test_a_callable_meets_networks_as_our_attacks_do_and_leaves_no_gradients(kind: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    network = {"in place": nn.Sequential(nn.ReLU(inplace=True), plain), "float64": plain.double()}.get(kind, plain)
    images = torch.rand(12, 3, 8, 8)
    with torch.no_grad():
        labels = network(images.to(next(network.parameters()).dtype, copy=True)).argmax(1)
    weight = next(network.parameters())
    weight.grad = mine = torch.ones_like(weight)
    protocol = EvaluationProtocol(attacks={"own": own_fgsm, "fgsm": FGSM()}, epsilons=GRID)
    with torch.set_grad_enabled(kind != "no_grad"):
        report = evaluate_robustness(network, images, labels, protocol)
    assert np.isfinite(report.minimal_epsilon["own"]).any()
    for epsilon in GRID:
        np.testing.assert_array_equal(report.correct("own", epsilon), report.correct("fgsm", epsilon))
    assert weight.grad is mine
    assert bool((mine == 1).all())
    assert all(other.grad is None for other in list(network.parameters())[1:])


def test_a_callable_of_other_arguments_is_refused_where_the_protocol_is_made() -> None:
    with pytest.raises(UserError, match=r"must take \(network, images, labels, threat, generator=None\)"):
        EvaluationProtocol(attacks={"own": lambda network, images, labels, threat: images}, epsilons=GRID)


@dataclass(frozen=True)
class Far:
    """Says that it seeks short changes, and returns long ones."""

    shift: float | None = None
    minimizes_norm: ClassVar = True

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object = None
    ) -> Tensor:
        return images + self.shift if self.shift is not None else 1 - images


@pytest.mark.parametrize(("attack", "named"), [(Far(), "longer than turning the image grey"), (Far(3.0), "the bounds")])
def test_a_search_for_short_changes_that_returns_long_ones_is_noticed(
    attack: Far, named: str, network: nn.Module, images: Tensor
) -> None:
    with torch.no_grad():  # images that the attack breaks, and a wrong label for the others
        labels, moved = network(images).argmax(1), network(attack(network, images, images, ThreatModel())).argmax(1)
    assert (labels != moved).sum() >= 4
    labels[labels == moved] = (labels[labels == moved] + 1) % 5
    protocol = EvaluationProtocol(attacks={"far": attack}, epsilons=GRID, checks="cheap")
    report = evaluate_robustness(network, images, labels, protocol)
    (check,) = (check for check in report.checks if check.name == "inside_ball")
    assert check.status == "failed"
    assert named in check.evidence


@pytest.mark.parametrize("searches", [False, True])
@pytest.mark.parametrize("cascade", [False, True])
def test_progress_of_an_attack_that_is_only_called_reaches_the_end(
    searches: bool, cascade: bool, network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    @dataclass(frozen=True)
    class Idle:
        minimizes_norm: ClassVar = searches

        def __call__(self, network: nn.Module, images: Tensor, *rest: object, **settings: object) -> Tensor:
            return images

    protocol = EvaluationProtocol(
        attacks={"fgsm": FGSM(), "own": Idle()}, epsilons=GRID, batch_size=7, cascade=cascade, checks="cheap"
    )
    seen: list[float] = []
    evaluate_robustness(
        network, images, labels, protocol, progress=lambda s: seen.append(s.done) if s.stage == "own" else None
    )
    assert len({*seen}) > 3
    assert seen == sorted(seen)
    assert seen[-1] == len(images)
