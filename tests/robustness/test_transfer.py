"""Images crafted on a source and judged on a target: what a target gives away, and which source is the target."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD, ThreatModel, TorchAttack, TransferPGD
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.names import protocol_settings
from symmetry_robustness.robustness import (
    EvaluationProtocol,
    RobustnessReport,
    Source,
    Transfer,
    evaluate_in_shards,
    evaluate_robustness,
)
from symmetry_robustness.robustness.checks.black_box import compare_with_white_box

MI = PGD(steps=5, momentum=1.0)


@pytest.fixture(scope="module")
def other() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)]
    return nn.Sequential(*layers).eval()


def test_images_are_crafted_on_the_source_and_judged_on_the_target(
    network: nn.Module, other: nn.Module, images: Tensor, labels: Tensor
) -> None:
    protocol = EvaluationProtocol(attacks={"mi": Transfer([Source("a", other)], MI)}, epsilons=[0.05])
    report = evaluate_robustness(network, images, labels, protocol)
    crafted = MI(other, images, labels, ThreatModel("linf", 0.05))
    with torch.no_grad():
        expected = (network(crafted).argmax(1) == labels).numpy() & report.clean_correct
    np.testing.assert_array_equal(report.correct("mi_from_a", 0.05), expected)
    assert 0 < expected.sum() < report.clean_correct.sum()


def test_each_source_and_rule_is_an_attack_of_its_own(other: nn.Module, network: nn.Module) -> None:
    sources = [Source("a", other), Source("b", network)]
    attacks = {"mi": Transfer(sources, MI), "vmi": Transfer(sources, TransferPGD(neighbours=2)), "pgd": PGD()}
    protocol = EvaluationProtocol(attacks=attacks)
    assert [*protocol.attacks] == ["mi_from_a", "mi_from_b", "vmi_from_a", "vmi_from_b", "pgd"]
    assert [*protocol.against(network, torch.rand(2, 3, 8, 8)).attacks] == [*protocol.attacks]


def test_a_source_that_is_the_target_is_white_box_and_marked(
    network: nn.Module, other: nn.Module, images: Tensor, labels: Tensor
) -> None:
    twin = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sources = [Source("twin", twin), Source("other", other)]
    protocol = EvaluationProtocol(attacks={"mi": Transfer(sources, MI)}, epsilons=[0.05], checks="cheap")
    report = evaluate_robustness(network, images, labels, protocol)
    marks = {name: attack["white_box"] for name, attack in report.settings["attacks"].items()}
    assert marks == {"mi_from_twin": True, "mi_from_other": False}
    # The mark differs between targets and is no reason not to compare them.
    elsewhere = evaluate_robustness(other, images, labels, protocol)
    assert elsewhere.settings["attacks"]["mi_from_other"]["white_box"]
    assert elsewhere.settings != report.settings
    assert protocol_settings(elsewhere.settings) == protocol_settings(report.settings)


def test_other_weights_are_no_white_box(network: nn.Module, images: Tensor) -> None:
    changed = copy.deepcopy(network)
    changed[5].bias.data[0] += 1e-3
    attacks = (
        EvaluationProtocol(attacks={"mi": Transfer([Source("a", changed)], MI)}).against(network, images[:2]).attacks
    )
    assert not attacks["mi_from_a"].white_box  # type: ignore[attr-defined]


def test_called_itself_it_keeps_the_first_source_that_deceives(
    network: nn.Module, other: nn.Module, images: Tensor, labels: Tensor
) -> None:
    torch.manual_seed(3)
    third = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    threat = ThreatModel("linf", 0.05)
    single = [MI(source, images, labels, threat) for source in (other, third)]
    moved = Transfer([Source("a", other), Source("b", third)], MI)(network, images, labels, threat)
    with torch.no_grad():
        first, second, joint = (network(x).argmax(1) != labels for x in (*single, moved))
    assert torch.equal(joint, first | second)
    assert joint.sum() > max(first.sum(), second.sum()) or torch.equal(first, second | first)
    assert torch.equal(moved[first], single[0][first])


def test_results_do_not_depend_on_shards_or_batches(
    network: nn.Module, other: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    attack = Transfer([Source("a", other)], TransferPGD(steps=4, neighbours=2, diversity=0.5))
    results = []
    for batch_size, shard_size in ((30, 30), (7, 11)):
        protocol = EvaluationProtocol(attacks={"vmi": attack}, epsilons=[0.03, 0.06], batch_size=batch_size)
        folder = tmp_path / str(batch_size)
        report = evaluate_in_shards(network, images, labels, protocol, folder, shard_size=shard_size)
        assert report is not None
        results.append(report)
    np.testing.assert_array_equal(*(report.minimal_epsilon["vmi_from_a"] for report in results))
    assert results[0].settings == results[1].settings


def test_sources_stay_as_they_are(network: nn.Module, other: nn.Module, images: Tensor, labels: Tensor) -> None:
    before = {name: value.clone() for name, value in other.state_dict().items()}
    attack = Transfer([Source("a", other)], TorchAttack("MIFGSM", steps=2))
    evaluate_robustness(network, images, labels, EvaluationProtocol(attacks={"mi": attack}, epsilons=[0.05]))
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in other.parameters())


def narrow(classes: int, side: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes)).eval()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (narrow(4, 8), "attack mi_from_a: source a has 4 classes, the target 5; "),
        (narrow(5, 16), r"attack mi_from_a: source a: network takes no images of shape \(2, 3, 8, 8\)"),
        (nn.Flatten(0), "attack mi_from_a: source a: network must return logits"),
    ],
)
def test_unsuitable_sources_are_refused_before_any_work(
    network: nn.Module, images: Tensor, labels: Tensor, source: nn.Module, message: str, tmp_path: Path
) -> None:
    protocol = EvaluationProtocol(attacks={"mi": Transfer([Source("a", source)], MI)}, epsilons=[0.05])
    with pytest.raises(UserError, match=message):
        evaluate_robustness(network, images, labels, protocol)
    with pytest.raises(UserError, match=message):
        evaluate_in_shards(network, images, labels, protocol, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_bad_sources_are_refused(network: nn.Module) -> None:
    with pytest.raises(UserError, match="must hold a network"):
        Transfer([], MI)
    with pytest.raises(UserError, match="different names, got a, a"):
        Transfer([Source("a", network), Source("a", network)], MI)
    with pytest.raises(UserError, match="cannot be a name"):
        Source("a b", network)
    with pytest.raises(UserError, match="must take"):
        Transfer([Source("a", network)], lambda images: images)


def report_of(broken: dict[str, list[float]]) -> RobustnessReport:
    arrays = {name: np.array(values) for name, values in broken.items()}
    rows = np.arange(len(next(iter(arrays.values()))))
    return RobustnessReport("linf", (0.1, 0.2), rows, rows, rows, minimal_epsilon=arrays, distance=arrays)


@pytest.mark.parametrize(("ahead", "status"), [(0, "passed"), (2, "passed"), (3, "warned"), (8, "failed")])
def test_a_black_box_that_is_ahead_of_gradients_is_found(network: nn.Module, ahead: int, status: str) -> None:
    whole = [np.inf] * 16
    transfer = [0.2] * ahead + [np.inf] * (16 - ahead)
    attacks = EvaluationProtocol(attacks={"pgd": PGD(), "mi": Transfer([Source("a", network)], MI)}).attacks
    (check,) = compare_with_white_box(report_of({"pgd": whole, "mi_from_a": transfer}), attacks)
    assert (check.name, check.status) == ("transfer_attack", status)
    assert check.evidence == f"mi from a: breaks {ahead} of 16 images left at epsilon {'51/255' if ahead else '0.1'}"
    attacks = {"pgd": PGD(), "square": TorchAttack("Square")}
    (check,) = compare_with_white_box(report_of({"pgd": whole, "square": transfer}), attacks)
    assert (check.name, check.status) == ("square_better_than_white_box", status)


def test_nothing_is_compared_without_both_kinds(network: nn.Module) -> None:
    assert compare_with_white_box(report_of({"pgd": [0.1, 0.2]}), {"pgd": PGD()}) == []
    attacks = EvaluationProtocol(attacks={"mi": Transfer([Source("a", network)], MI)}).attacks
    assert compare_with_white_box(report_of({"mi_from_a": [0.1, 0.2]}), attacks) == []


class Rounding(nn.Module):
    """A network behind a rounding of pixels that has no gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 32).round() / 32)


def test_transfer_from_the_network_before_its_mask_is_ahead_and_warned_of(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    attacks = {"fgsm": FGSM(), "mi": Transfer([Source("bare", network)], MI)}
    protocol = EvaluationProtocol(attacks=attacks, epsilons=[0.1], checks="cheap")
    report = evaluate_robustness(Rounding(network).eval(), images, labels, protocol)
    checks = {check.name: check for check in report.checks}
    assert checks["transfer_attack"].status == "failed"
    assert "mi from bare: breaks" in checks["transfer_attack"].evidence
