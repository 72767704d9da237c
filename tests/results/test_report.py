"""The report alone, made of numpy arrays: its numbers, its files, and how shards become one report."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmetry_robustness.errors import UserError
from symmetry_robustness.results import Check, Curve, Distribution, Panel, RobustnessReport
from symmetry_robustness.results.plots import plots_to_plain
from symmetry_robustness.results.report import concatenate

GRID = (0.01, 0.02)
PLOTS = (Distribution("value", "score"), Panel("pictures", "value", "score"))
SCORE = {"class": "Score", "images": 6, "means": ["value"], "plots": plots_to_plain(PLOTS)}
SETTINGS = {"norm": "linf", "attacks": {"fgsm": {"class": "FGSM"}, "pgd": {"class": "PGD", "steps": 3}}}


def make(indices: Any, seed: int = 0, keep: int = 3) -> RobustnessReport:
    """A report whose numbers are functions of the images' numbers."""
    numbers = np.asarray(indices)
    random = np.random.default_rng(seed).random((1000, 3))[numbers]
    labels = numbers % 5
    wrong = random[:, 0] < 0.2
    fgsm = np.where(wrong, 0.0, np.where(random[:, 1] < 0.5, 0.02, np.inf))
    pgd = np.where(wrong, 0.0, np.where(random[:, 2] < 0.6, 0.01, fgsm))
    lowest = np.sort(numbers)[:keep]
    pictures = np.repeat(lowest[:, None, None, None] / 1000, 12, axis=1).reshape(len(lowest), 3, 2, 2)
    order = np.argsort(numbers)[:6]
    return RobustnessReport(
        norm="linf",
        epsilons=GRID,
        indices=numbers,
        labels=labels,
        predictions=np.where(wrong, labels + 1, labels),
        minimal_epsilon={"fgsm": fgsm, "pgd": pgd},
        distance={"fgsm": fgsm, "pgd": pgd * 0.9},
        examples=dict.fromkeys(("clean", "fgsm", "pgd"), pictures.astype(np.float32)),
        measures={
            "score": {"indices": numbers[order], "value": random[order, 0], "pictures": pictures.astype(np.float32)}
        },
        checks=(Check("inside_ball", "passed", "as it should be"),),
        settings=SETTINGS | {"measures": {"score": SCORE}},
        counts={"seconds": 1.0},
    )


@pytest.fixture(scope="module")
def report() -> RobustnessReport:
    return make(range(30))


def equal(first: RobustnessReport, second: RobustnessReport) -> None:
    assert first.summary() == second.summary()
    assert (first.checks, first.settings) == (second.checks, second.settings)
    for name in ("indices", "labels", "predictions"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for group in ("minimal_epsilon", "distance", "fooled", "examples"):
        found = getattr(second, group)
        assert list(getattr(first, group)) == list(found)
        for name, values in getattr(first, group).items():
            np.testing.assert_array_equal(values, found[name])
    for measure, arrays in first.measures.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, second.measures[measure][name])


def test_a_saved_report_comes_back(report: RobustnessReport, tmp_path: Path) -> None:
    path = report.save(tmp_path / "new", "epoch=001.best")
    assert sorted(file.name for file in path.parent.iterdir()) == ["epoch=001.best.json", "epoch=001.best.npz"]
    for given in (path, path.with_suffix(".npz")):
        loaded = RobustnessReport.load(given)
        equal(loaded, report)
        assert loaded.plots("score") == PLOTS


@pytest.mark.parametrize("saved", [False, True])
def test_shards_in_any_order_merge_to_the_whole(report: RobustnessReport, tmp_path: Path, saved: bool) -> None:
    shards = [make(np.random.default_rng(rank).permutation(np.arange(rank, 30, 3))) for rank in (2, 0, 1)]
    if saved:
        shards = [RobustnessReport.load(shard.save(tmp_path, f"{n}")) for n, shard in enumerate(shards)]
    merged = RobustnessReport.merge(shards)
    equal(merged, report)
    assert merged.counts == {"seconds": 3.0}
    with pytest.raises(UserError, match="same image twice"):
        RobustnessReport.merge([shards[0], shards[0]])


def test_merging_keeps_the_worst_of_each_check(report: RobustnessReport) -> None:
    other = dataclasses.replace(make(range(30, 40)), checks=(Check("inside_ball", "failed", "one left it"),))
    assert RobustnessReport.merge([report, other]).checks == other.checks


def test_reports_of_other_settings_are_not_merged(report: RobustnessReport) -> None:
    other = dataclasses.replace(make(range(30, 40)), settings={"norm": "linf", "seed": 1})
    for merge in (RobustnessReport.merge, concatenate):
        with pytest.raises(UserError, match="different settings"):
            merge([report, other])
    with pytest.raises(UserError, match="no reports to merge"):
        concatenate([])


def test_numbers_follow_from_the_images(report: RobustnessReport) -> None:
    assert list(report.summary()) == [
        "clean_accuracy",
        "robust_accuracy.fgsm.linf_0.01",
        "robust_accuracy.fgsm.linf_0.02",
        "robust_accuracy.pgd.linf_0.01",
        "robust_accuracy.pgd.linf_0.02",
        "worst_case.linf_0.01",
        "worst_case.linf_0.02",
        "measures.score.value",
    ]
    standing = report.minimal_epsilon["pgd"] > 0.01
    share = standing.mean()
    assert report.accuracy("pgd", 0.01) == pytest.approx((share, np.sqrt(share * (1 - share) / 30), 30))
    both = standing & (report.minimal_epsilon["fgsm"] > 0.01)
    assert report.broken_at is report.minimal_epsilon
    np.testing.assert_array_equal(report.correct("worst_case", 0.01), both)
    np.testing.assert_array_equal(report.curve("worst_case")[:, 0], both)
    least = np.minimum(report.distance["fgsm"], report.distance["pgd"])
    np.testing.assert_array_equal(report.minimal_distance(), least)
    assert (least[~report.clean_correct] == 0).all()


def test_each_epsilon_on_its_own_counts_where_it_was_judged_so(report: RobustnessReport) -> None:
    fooled = np.zeros((30, 2), dtype=bool)
    fooled[:3, 0] = fooled[3:9, 1] = True
    own = dataclasses.replace(report, fooled={"fgsm": fooled})
    assert [own.accuracy("fgsm", epsilon).value for epsilon in GRID] == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize(("attack", "epsilon"), [("cw", 0.01), ("pgd", 0.015)])
def test_what_was_not_evaluated_is_refused(report: RobustnessReport, attack: str, epsilon: float) -> None:
    with pytest.raises(UserError, match="was not evaluated"):
        report.accuracy(attack, epsilon)


def test_plots_are_read_as_they_were_written() -> None:
    curve = Curve((0, 90.0), "turn.*", "angle", "error", circular=True)
    assert curve.y == ("turn.*",)
    described = dataclasses.replace(make(range(4)), settings={"measures": {"m": {"plots": plots_to_plain([curve])}}})
    assert described.plots("m") == (curve,)
    unknown = dataclasses.replace(described, settings={"measures": {"m": {"plots": [{"kind": "movie"}]}}})
    with pytest.raises(UserError, match="plots of a measure cannot be read"):
        unknown.plots("m")
