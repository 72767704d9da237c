import random
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD, LibraryAttack, ThreatModel
from symmetry_robustness.attacks.gradient import GradientAttack
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, Progress, RobustnessReport, evaluate_robustness

GRID = (0.002, 0.005, 0.01, 0.02, 0.04)


def same(first: RobustnessReport, second: RobustnessReport) -> None:
    """Per-example results agree; distances up to the rounding of convolutions in batches of another size."""
    assert np.array_equal(first.indices, second.indices)
    assert np.array_equal(first.predictions, second.predictions)
    for name in first.minimal_epsilon:
        np.testing.assert_array_equal(first.minimal_epsilon[name], second.minimal_epsilon[name])
        np.testing.assert_allclose(first.distance[name], second.distance[name], atol=1e-5)
        np.testing.assert_allclose(first.examples[name], second.examples[name], atol=1e-4)


def protocol(**settings: object) -> EvaluationProtocol:
    defaults: dict[str, object] = {"attacks": {"fgsm": FGSM(), "pgd": PGD(steps=6)}, "epsilons": GRID, "batch_size": 7}
    return EvaluationProtocol(**(defaults | settings))  # type: ignore[arg-type]


def numbers(**settings: object) -> EvaluationProtocol:
    """Where a test asks for numbers alone: no check attacks again."""
    return protocol(checks="cheap", **settings)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=12), PGD(steps=3, loss="margin")], ids=str)
def test_linear_network_breaks_exactly_where_its_margin_ends(two_classes, attack: GradientAttack, norm: str) -> None:
    two, images, labels = two_classes
    limit = two_classes.distances(1 if norm == "linf" else 2)
    grid = np.quantile(limit, [0.1, 0.3, 0.5, 0.7, 0.9]) + 1e-5
    report = evaluate_robustness(two, images, labels, numbers(attacks={"a": attack}, epsilons=grid, norm=norm))
    for epsilon in grid:
        assert report.accuracy("a", epsilon).value == (limit > epsilon).mean()
    broken = np.isfinite(report.minimal_epsilon["a"])
    assert (report.distance["a"][broken] >= limit[broken] - 1e-5).all()
    assert report.accuracy("a", grid[2]).standard_error == pytest.approx(np.sqrt(0.25 / 40))


@pytest.mark.parametrize(
    "attack",
    [FGSM(), PGD(steps=6), PGD(steps=6, momentum=0.9, loss="dlr"), PGD(steps=4, step_size=0.008)],
    ids=str,
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_engine_equals_a_plain_loop_over_epsilons(
    network: nn.Module, images: Tensor, labels: Tensor, attack: GradientAttack, norm: str
) -> None:
    grid = [10 * epsilon if norm == "l2" else epsilon for epsilon in GRID]
    report = evaluate_robustness(network, images, labels, numbers(attacks={"a": attack}, epsilons=grid, norm=norm))
    broken = np.where((network(images).argmax(1) != labels).numpy(), 0.0, np.inf)
    for epsilon in grid:
        # Any iterate counts: the plain loop with each smaller number of steps visits them all.
        for steps in range(1, attack.update_rule.steps + 1):
            rule = attack.update_rule
            length = float(rule.step_length(torch.tensor([epsilon])))
            shorter = PGD(steps=steps, step_size=length, momentum=rule.momentum, loss=rule.loss)
            wrong = network(shorter(network, images, labels, ThreatModel(norm, epsilon))).argmax(1) != labels
            broken = np.where(wrong.numpy() & np.isinf(broken), epsilon, broken)
    np.testing.assert_array_equal(report.minimal_epsilon["a"], broken)
    assert len(np.unique(broken)) >= 4


@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=4),
        PGD(steps=4, random_start=True, restarts=3, momentum=0.5),
        PGD(steps=4, targeted=True, restarts=2),
        PGD(steps=1, random_start=True),
    ],
    ids=str,
)
def test_results_do_not_depend_on_batches_shares_or_order(
    network: nn.Module, images: Tensor, labels: Tensor, attack: GradientAttack
) -> None:
    whole = evaluate_robustness(network, images, labels, numbers(attacks={"a": attack}))
    other = evaluate_robustness(network, images, labels, numbers(attacks={"a": attack}, batch_size=64))
    same(whole, other)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shares = [
        evaluate_robustness(network, images[rows], labels[rows], numbers(attacks={"a": attack}), indices=rows)
        for rows in order.tensor_split(4)
    ]
    same(whole, RobustnessReport.merge(shares))


def test_trying_ahead_changes_nothing(
    network: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = {"a": PGD(steps=4, random_start=True, restarts=2), "b": FGSM()}
    monkeypatch.setattr("symmetry_robustness.engine.continuous_batching._SPECULATE_BELOW", {"cpu": 0})
    plain = evaluate_robustness(network, images, labels, numbers(attacks=attacks, batch_size=64))
    monkeypatch.setattr("symmetry_robustness.engine.continuous_batching._SPECULATE_BELOW", {"cpu": 64})
    same(plain, evaluate_robustness(network, images, labels, numbers(attacks=attacks, batch_size=64)))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler; install g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler about itself
def test_compiling_changes_nothing_and_happens_once(images: Tensor) -> None:
    # Few layers, each fused in another way: the C++ compiler takes two seconds for each kernel.
    stem = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(4)]
    network = nn.Sequential(*stem, nn.Conv2d(4, 5, 3, padding=1), nn.Flatten(), nn.Linear(20, 5)).eval()
    labels = network(images).argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    attacks = {"a": PGD(steps=3, random_start=True, restarts=2)}
    plain = evaluate_robustness(network, images, labels, protocol(attacks=attacks))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    same(plain, evaluate_robustness(network, images, labels, protocol(attacks=attacks), compiled=True))
    # Once with gradients and once without, although the number of busy slots changes all the time.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_windows_change_nothing(
    network: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate_robustness(network, images, labels, numbers(), indices=range(30, 0, -1))
    monkeypatch.setattr("symmetry_robustness.robustness.evaluate._WINDOW", 8)
    same(whole, evaluate_robustness(network, images, labels, numbers(), indices=range(30, 0, -1)))


def test_iterates_between_the_last_count_only_when_asked(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack = PGD(steps=9, step_size=0.01)
    sound = evaluate_robustness(network, images, labels, numbers(attacks={"a": attack}))
    returned = evaluate_robustness(network, images, labels, numbers(attacks={"a": attack}, judge="returned"))
    for epsilon in GRID:
        adversarial = attack(network, images, labels, ThreatModel(epsilon=epsilon))
        right = (network(adversarial).argmax(1) == labels).float().mean().item()
        assert returned.accuracy("a", epsilon).value == pytest.approx(right)
        assert sound.accuracy("a", epsilon).value <= right + 1e-6
    assert returned.worst_case(GRID[-1]).value <= returned.clean_accuracy


def test_accuracy_falls_and_examples_are_adversarial(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    report = evaluate_robustness(network, images, labels, numbers(keep_examples=12))
    for name in ("fgsm", "pgd"):
        curve = [report.accuracy(name, epsilon).value for epsilon in (0, *GRID)]
        assert curve == sorted(curve, reverse=True)
        assert report.examples[name].shape == (12, 3, 8, 8)
        with torch.no_grad():
            wrong = (network(torch.from_numpy(report.examples[name])).argmax(1) != labels[:12]).numpy()
        assert np.array_equal(wrong, np.isfinite(report.minimal_epsilon[name][:12]))
        change = np.abs(report.examples[name] - report.examples["clean"]).max((1, 2, 3))
        broken = np.isfinite(report.distance[name][:12])
        np.testing.assert_allclose(change[broken], report.distance[name][:12][broken], atol=1e-6)
    assert np.array_equal(report.minimal_epsilon["pgd"] == 0, ~report.clean_correct)
    assert all(report.worst_case(e).value <= report.accuracy("pgd", e).value for e in GRID)


def test_nothing_is_changed(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    training = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), network)
    before = {key: value.clone() for key, value in training.state_dict().items()}
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    evaluate_robustness(training, images, labels, protocol(attacks={"pgd": PGD(steps=2, random_start=True)}))
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002
    assert all(torch.equal(value, before[key]) for key, value in training.state_dict().items())
    assert [module.training for module in (training, training[0], network)] == [True, True, False]
    assert all(p.grad is None and p.requires_grad for p in training.parameters())


def test_inference_mode_is_refused_and_its_tensors_are_accepted(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    with torch.inference_mode():
        inside = images.clone(), labels.clone()
        with pytest.raises(UserError, match="inference_mode"):
            evaluate_robustness(network, *inside, protocol())
    same(evaluate_robustness(network, *inside, protocol()), evaluate_robustness(network, images, labels, protocol()))


@pytest.mark.filterwarnings("ignore")
def test_library_attacks_are_called_on_what_still_stands(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    pytest.importorskip("torchattacks")
    attacks = {"apgd": LibraryAttack("APGD", steps=5), "smallest": LibraryAttack("DeepFool", steps=10)}
    report = evaluate_robustness(network, images, labels, protocol(attacks=attacks, batch_size=64))
    assert {check.name: check.status for check in report.checks}["inside_ball"] == "passed"
    strongest = evaluate_robustness(network, images, labels, protocol(attacks={"pgd": PGD(steps=50)}))
    for epsilon in GRID:
        assert abs(report.accuracy("apgd", epsilon).value - strongest.accuracy("pgd", epsilon).value) < 0.15
    broken = np.isfinite(report.minimal_epsilon["smallest"]) & (report.minimal_epsilon["smallest"] > 0)
    assert broken.any()
    assert (report.distance["smallest"][broken] <= report.minimal_epsilon["smallest"][broken] * (1 + 1e-5)).all()


def test_attack_that_leaves_its_ball_is_found_and_does_not_count(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    def cheat(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object) -> Tensor:
        return (images + 3 * threat.epsilon).clamp(0, 1)

    report = evaluate_robustness(network, images, labels, protocol(attacks={"cheat": cheat}, epsilons=[0.1]))
    check = {check.name: check for check in report.checks}["inside_ball"]
    assert check.status == "failed"
    assert "attack cheat, linf epsilon 0.1: " in check.evidence
    assert "by up to 0.2" in check.evidence
    assert report.accuracy("cheat", 0.1).value == report.clean_accuracy


def shifted(images: Tensor, threat: ThreatModel) -> Tensor:
    return (images + threat.epsilon).clamp(0, 1)


def test_an_attack_that_works_in_place_is_judged_by_the_images_and_labels_given(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    def plain(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object) -> Tensor:
        return shifted(images, threat)

    def careless(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object) -> Tensor:
        images.copy_(shifted(images, threat))
        labels.zero_()
        network.train()
        return images

    found = [
        evaluate_robustness(network, images, labels, protocol(attacks={"a": attack, "pgd": PGD(steps=6)}))
        for attack in (plain, careless)
    ]
    same(*found)
    assert not any(module.training for module in network.modules())


def test_an_attack_that_changes_the_network_is_refused(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    def vandal(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object) -> Tensor:
        with torch.no_grad():
            next(network.parameters()).mul_(1)
        return images

    with pytest.raises(UserError, match=r"attack vandal changes the network \(0.weight\)"):
        evaluate_robustness(network, images, labels, protocol(attacks={"vandal": vandal}))


def test_an_attack_that_returns_nothing_is_refused(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(UserError, match="attack lazy returned NoneType"):
        evaluate_robustness(network, images, labels, protocol(attacks={"lazy": lambda *_, **__: None}))


def test_progress_reaches_the_end_of_every_stage(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    seen: list[Progress] = []
    evaluate_robustness(network, images, labels, protocol(), progress=seen.append)
    last = {state.stage: state for state in seen}
    assert {stage: (state.done, state.total) for stage, state in last.items()} == {
        "clean": (30, 30),
        "fgsm": (30, 30),
        "pgd": (30, 30),
    }


def test_no_images_give_an_empty_report(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    empty = evaluate_robustness(network, images[:0], labels[:0], protocol())
    whole = evaluate_robustness(network, images, labels, protocol())
    assert len(empty) == 0
    same(RobustnessReport.merge([empty, whole]), whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilons": [-0.1]}, "epsilon must be positive"),
        ({"epsilons": ["8/255", 8 / 255]}, "epsilons must differ"),
        ({"epsilons": []}, "epsilons must not be empty"),
        ({"norm": "l0"}, "norm must be one of"),
        ({"attacks": {"a": 3}}, "attack a must be an attack"),
        ({"attacks": {"a": PGD}}, "attack a must be an attack"),
        ({"attacks": [PGD()]}, "attacks must be given by name"),
        ({"clever": "l2"}, "clever must be settings of CLEVER"),
        ({"attacks": {"clean": FGSM()}}, "cannot name an attack"),
        ({"judge": "last"}, "judge must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"keep_examples": -1}, "keep_examples must be a whole number of at least 0"),
    ],
)
def test_bad_protocols_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        protocol(**settings)


def test_bad_inputs_are_refused(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(UserError, match="labels must be int64"):
        evaluate_robustness(network, images, labels[:3], protocol())
    with pytest.raises(UserError, match="indices must be 30 different"):
        evaluate_robustness(network, images, labels, protocol(), indices=[0] * 30)
    with pytest.raises(UserError, match="images must be float32"):
        evaluate_robustness(network, images.double(), labels, protocol())
    with pytest.raises(UserError, match=r"labels must lie in 0 ... 4, got 0 ... 7"):
        evaluate_robustness(network, images[:2], torch.tensor([0, 7]), protocol())
    with pytest.raises(UserError, match="network is on cpu but images are on meta"):
        evaluate_robustness(network, images.to("meta"), labels.to("meta"), protocol(attacks={}))
    with pytest.raises(UserError, match="images must be finite"):
        evaluate_robustness(network, images / 0, labels, protocol())
