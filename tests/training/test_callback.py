import numpy as np
import pytest
import torch
from torch import nn

from symmetry_robustness.attacks import FGSM
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness
from symmetry_robustness.training import RobustnessCallback
from symmetry_robustness.training.callback import curve, describe, flat_metrics

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
    }  # fmt: skip
    assert metrics["clean"] == report.clean_accuracy
    assert metrics["fgsm/linf_0.03137"] == report.accuracy("fgsm", 8 / 255).value


def test_a_curve_begins_with_the_clean_accuracy_and_falls(report) -> None:  # type: ignore[no-untyped-def]
    epsilons, accuracies, errors = curve(report, "fgsm")
    np.testing.assert_allclose(epsilons, (0, *EPSILONS))
    assert accuracies[0] == report.clean_accuracy
    assert np.all(np.diff(accuracies) <= 0)
    np.testing.assert_allclose(errors, np.sqrt(accuracies * (1 - accuracies) / 40))


def test_the_line_names_what_was_measured(report) -> None:  # type: ignore[no-untyped-def]
    line = describe(report)
    assert f"clean {report.clean_accuracy:.3f}" in line
    assert "fgsm" in line
    assert "\n" not in line


@pytest.mark.parametrize("setting", ["every_n_epochs", "num_images", "final_num_images"])
def test_impossible_settings_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=f"callback.{setting}"):
        RobustnessCallback(EvaluationProtocol(), **{setting: -1})
