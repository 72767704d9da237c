import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import FGSM, PGD
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness import Clever, EvaluationProtocol, RobustnessReport, evaluate_robustness
from symmetry_robustness.robustness.checks.derived import add_derived_checks

CLEVER = Clever(num_batches=8, samples_per_batch=4, radius=1.0)


@pytest.fixture(scope="module")
def report(network: nn.Module, images: Tensor, labels: Tensor) -> RobustnessReport:
    protocol = EvaluationProtocol(
        attacks={"fgsm": FGSM(), "pgd": PGD(steps=3)}, epsilons=[0.01, 0.02], clever=CLEVER, clever_images=5
    )
    return evaluate_robustness(network, images, labels, protocol)


def test_saved_report_comes_back(report: RobustnessReport, tmp_path: Path) -> None:
    path = report.save(tmp_path / "new", "epoch=001.best")
    assert sorted(file.name for file in path.parent.iterdir()) == ["epoch=001.best.json", "epoch=001.best.npz"]
    for given in (path, path.with_suffix(".npz")):
        loaded = RobustnessReport.load(given)
        assert loaded.summary() == report.summary()
        assert loaded.checks == report.checks
        assert loaded.settings == report.settings
        for name in ("minimal_epsilon", "distance", "examples"):
            for attack, values in getattr(report, name).items():
                np.testing.assert_array_equal(getattr(loaded, name)[attack], values)
        for name, values in report.measures["clever"].items():
            np.testing.assert_array_equal(loaded.measures["clever"][name], values)
    assert json.loads(path.read_text())["summary"]["clean_accuracy"] == report.clean_accuracy


def test_loaded_shares_can_be_merged(
    network: nn.Module, images: Tensor, labels: Tensor, report: RobustnessReport, tmp_path: Path
) -> None:
    protocol = EvaluationProtocol(
        attacks={"fgsm": FGSM(), "pgd": PGD(steps=3)}, epsilons=[0.01, 0.02], clever=CLEVER, clever_images=5
    )
    shares = []
    for rank in range(3):
        rows = torch.arange(rank, 30, 3)
        share = evaluate_robustness(network, images[rows], labels[rows], protocol, indices=rows)
        shares.append(RobustnessReport.load(share.save(tmp_path, f"rank{rank}")))
    merged = RobustnessReport.merge(shares)
    assert merged.summary() == pytest.approx(report.summary(), rel=1e-4)
    np.testing.assert_array_equal(merged.measures["clever"]["indices"], range(5))
    assert merged.examples["clean"].shape == report.examples["clean"].shape
    np.testing.assert_array_equal(merged.examples["clean"], report.examples["clean"])
    merged = add_derived_checks(merged, protocol.attacks)
    assert {c.name: c.status for c in merged.checks} == {c.name: c.status for c in report.checks}
    with pytest.raises(UserError, match="same image twice"):
        RobustnessReport.merge([shares[0], shares[0]])


def test_summary_names(report: RobustnessReport) -> None:
    assert list(report.summary()) == [
        "clean_accuracy",
        "robust_accuracy.fgsm.linf_0.01",
        "robust_accuracy.fgsm.linf_0.02",
        "robust_accuracy.pgd.linf_0.01",
        "robust_accuracy.pgd.linf_0.02",
        "worst_case.linf_0.01",
        "worst_case.linf_0.02",
        "clever",
    ]


def test_minimal_distance_is_the_least_over_attacks(report: RobustnessReport) -> None:
    least = report.minimal_distance()
    assert (least == np.minimum(report.distance["fgsm"], report.distance["pgd"])).all()
    assert (least[~report.clean_correct] == 0).all()


@pytest.mark.parametrize(("attack", "epsilon"), [("cw", 0.01), ("pgd", 0.015)])
def test_what_was_not_evaluated_is_refused(report: RobustnessReport, attack: str, epsilon: float) -> None:
    with pytest.raises(UserError, match="was not evaluated"):
        report.accuracy(attack, epsilon)


@pytest.mark.parametrize("damage", ["missing", "truncated", "no json", "format", "lacking"])
def test_damaged_files_are_named(report: RobustnessReport, tmp_path: Path, damage: str) -> None:
    path = report.save(tmp_path, "r")
    arrays, content = path.with_suffix(".npz"), json.loads(path.read_text())
    if damage == "missing":
        arrays.unlink()
    elif damage == "truncated":
        arrays.write_bytes(arrays.read_bytes()[:200])
    elif damage == "no json":
        path.write_text("{")
    elif damage == "format":
        path.write_text(json.dumps(content | {"format": 99}))
    else:
        del content["checks"]
        path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="evaluate again") as caught:
        RobustnessReport.load(path)
    assert "\n" not in str(caught.value)


def test_any_byte_that_changed_is_damage_or_nothing(report: RobustnessReport, tmp_path: Path) -> None:
    arrays = report.save(tmp_path, "r").with_suffix(".npz")
    content, random = arrays.read_bytes(), np.random.default_rng(0)
    refused = 0
    for position in random.choice(len(content), 300):
        changed = bytearray(content)
        changed[position] ^= 1 << int(random.integers(8))
        arrays.write_bytes(changed)
        try:
            RobustnessReport.load(arrays)
        except UserError:
            refused += 1
    assert refused > 100


def test_failed_write_leaves_the_old_report(report: RobustnessReport, tmp_path: Path) -> None:
    path = report.save(tmp_path, "r")
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("json.dumps", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            report.save(tmp_path, "r")
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
