"""Checks of the set-up find protocols, classes and images that make a number meaningless."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM
from symmetry_robustness.attacks.threats import make_threat
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport, evaluate_robustness
from symmetry_robustness.robustness.checks.derived import add_derived_checks
from symmetry_robustness.robustness.checks.setup import distinct_images, epsilon_range, several_classes

CIFAR = 3 * 32 * 32


@pytest.mark.parametrize(
    ("norm", "epsilon"),
    [("linf", 2 / 255), ("linf", 16 / 255), ("linf", 0.5), ("l2", 0.25), ("l2", 3.0), ("l1", 12.0), ("spatial", 1.0)],
)
def test_radii_of_published_protocols_pass(norm: str, epsilon: float) -> None:
    assert epsilon_range(make_threat(norm, epsilon), (epsilon / 8, epsilon), CIFAR).status == "passed"


@pytest.mark.parametrize(
    ("norm", "epsilon", "evidence"),
    [
        ("linf", 8 / 255 / 255, "divided by 255 twice"),
        ("linf", 8.0, "pixels up to 255"),
        ("l2", 8 / 255, "another norm"),
        ("l2", 128.0, "pixels up to 255"),
        ("l1", 8 / 255, "another norm"),
    ],
)
def test_radii_of_other_units_or_norms_are_stated_not_failed(norm: str, epsilon: float, evidence: str) -> None:
    check = epsilon_range(make_threat(norm, epsilon), (epsilon,), CIFAR)
    assert check.status == "warned"
    assert evidence in check.evidence


def test_images_of_one_class_fail() -> None:
    assert several_classes(np.array([3, 3, 4])).status == "passed"
    assert several_classes(np.array([3])).status == "passed"
    assert several_classes(np.full(5, 3)).status == "warned"
    assert several_classes(np.full(200, 3)).status == "failed"


def test_images_that_are_repeated_are_counted(images: Tensor) -> None:
    assert distinct_images(images).status == "passed"
    assert distinct_images(images[:0]).status == "passed"
    assert distinct_images(torch.cat([images, images[:5]])).status == "warned"
    check = distinct_images(images[:8].repeat(16, 1, 1, 1))
    assert check == ("distinct_images", "failed", "8 of 128 images are different; intervals hold for different ones")


def test_an_evaluation_makes_these_checks(network: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(24, dtype=torch.int64)
    protocol = EvaluationProtocol(attacks={"fgsm": FGSM()}, epsilons=[8 / 255 / 255], checks="cheap")
    report = evaluate_robustness(network, images[:3].repeat(8, 1, 1, 1), labels, protocol)
    found = {check.name: check.status for check in report.checks}
    assert found["epsilon_range"] == "warned"
    assert (found["several_classes"], found["distinct_images"]) == ("failed", "failed")


def test_ranks_with_images_of_one_class_each_are_judged_together(network: nn.Module, images: Tensor) -> None:
    labels = torch.arange(30) // 15
    protocol = EvaluationProtocol(checks="cheap")
    parts = [
        evaluate_robustness(network, images[rows], labels[rows], protocol, indices=range(rows.start, rows.stop))
        for rows in (slice(0, 15), slice(15, 30))
    ]
    merged = RobustnessReport.merge(parts)
    merged = add_derived_checks(merged, protocol.attacks)
    assert {check.name: check.status for check in merged.checks}["several_classes"] == "passed"
