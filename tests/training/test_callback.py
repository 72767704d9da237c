import dataclasses

import pytest
import torch
from torch import nn

from symmetry_robustness.attacks import FGSM
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import Check, EvaluationProtocol, evaluate_robustness
from symmetry_robustness.training import RobustnessCallback
from symmetry_robustness.training.report_logging import describe, flat_metrics

EPSILONS = (1 / 255, 8 / 255)


@pytest.fixture
def report():  # type: ignore[no-untyped-def]
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    images, labels = torch.rand(40, 3, 2, 2), torch.randint(3, (40,))
    return evaluate_robustness(network, images, labels, EvaluationProtocol({"fgsm": FGSM()}, epsilons=EPSILONS))


def test_metrics_are_named_by_attack_norm_and_epsilon(report) -> None:  # type: ignore[no-untyped-def]
    metrics = flat_metrics(report)
    assert set(metrics) == {
        "clean", "fgsm/linf_0.003922", "fgsm/linf_0.03137", "worst_case/linf_0.003922", "worst_case/linf_0.03137",
        "images", "checks_failed", "checks_warned",
    }  # fmt: skip
    assert metrics["images"] == 40
    assert metrics["clean"] == report.clean_accuracy
    assert metrics["fgsm/linf_0.03137"] == report.accuracy("fgsm", 8 / 255).value


def test_the_line_names_what_was_measured(report) -> None:  # type: ignore[no-untyped-def]
    line = describe(report)
    assert f"clean {report.clean_accuracy:.3f}" in line
    assert "at 8/255" in line
    assert "\n" not in line


def test_checks_are_counted(report) -> None:  # type: ignore[no-untyped-def]
    checks = [Check("falls_with_epsilon", status, "why") for status in ("passed", "warned", "failed", "warned")]
    metrics = flat_metrics(dataclasses.replace(report, checks=tuple(checks)))
    assert (metrics["checks_failed"], metrics["checks_warned"]) == (1, 2)
    assert "checks: 1 passed, 2 warned, 1 failed" in describe(dataclasses.replace(report, checks=tuple(checks)))


@pytest.mark.parametrize(
    "setting", ["every_n_epochs", "num_images", "min_images", "final_num_images", "max_share_of_epoch"]
)
def test_impossible_settings_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=f"callback.{setting}"):
        RobustnessCallback(EvaluationProtocol(), **{setting: -1})


def test_more_at_least_than_at_most_is_refused() -> None:
    with pytest.raises(UserError, match=r"callback\.min_images=9 exceeds callback\.num_images=8"):
        RobustnessCallback(EvaluationProtocol(), num_images=8, min_images=9)


def test_at_least_a_quarter_is_evaluated_unless_told() -> None:
    assert RobustnessCallback(EvaluationProtocol(), num_images=100).budget.sizes == (25, 50, 100)
    assert RobustnessCallback(EvaluationProtocol(), num_images=100, min_images=100).budget.sizes == (100,)
    assert RobustnessCallback(EvaluationProtocol(), num_images=1).budget.sizes == (1,)
