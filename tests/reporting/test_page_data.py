"""What the page says follows from the runs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmetry_robustness.reporting.aggregate import summarize
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import Run, find_runs
from symmetry_robustness.reporting.page import Curve, Page, render_page
from symmetry_robustness.reporting.page_data import all_details, make_page
from symmetry_robustness.results import Check

from .made import CIFAR, EPSILONS, SETTINGS, draw_broken_at, make_report, make_run


def page_of(*paths: Path) -> tuple[Page, list[Run]]:
    runs, problems = find_runs(paths)
    frame = frame_of(runs, problems)
    return make_page(runs, frame, summarize(frame, runs), made="today", checks={}), runs


def start_of(page: Page) -> int:
    """Number of the setting that is shown first."""
    return next(iter(page.starts.values()))


def curve_of(page: Page, network: str, attack: str = "worst_case", setting: int | None = None) -> Curve:
    setting = start_of(page) if setting is None else setting
    (curve,) = (c for c in page.curves if (c.network, c.attack, c.setting) == (network, attack, setting))
    return curve


def test_a_curve_is_the_mean_over_seeds_and_begins_without_attack(tmp_path: Path) -> None:
    drawn = [draw_broken_at(100, seed) for seed in range(3)]
    for seed, broken_at in enumerate(drawn):
        make_run(tmp_path / str(seed), make_report(broken_at), seed=seed)
    page, _ = page_of(tmp_path)
    curve = curve_of(page, "standard", "pgd")
    assert curve.positions == [0.0, *EPSILONS]
    shares = [[(found["pgd"] > epsilon).mean() for epsilon in curve.positions] for found in drawn]
    assert curve.values == pytest.approx(np.mean(shares, axis=0), abs=1e-6)
    assert (curve.seeds, curve.images, curve.runs, curve.checked) == (3, 100, [0, 1, 2], True)
    assert [run.reports[0].attacks["pgd"].values for run in page.runs] == [
        pytest.approx(line, abs=1e-6) for line in shares
    ]
    setting = page.settings[start_of(page)]
    assert (setting.data, setting.protocol, setting.norm, setting.released) == (
        "cifar10",
        "FGSM, PGD-10",
        "linf",
        False,
    )


def strong_and_weak(tmp_path: Path, checks: tuple[Check, ...] = ()) -> Page:
    """`standard` is weak, `cascaded` stronger, `weighted` the strongest, which has the given checks."""
    for strength, name in ((0.2, "standard"), (2.0, "cascaded"), (6.0, "weighted")):
        for seed in range(3):
            changes: dict[str, Any] = {"checks": checks} if checks and name == "weighted" else {}
            report = make_report(draw_broken_at(400, seed, strength), **changes)
            make_run(tmp_path / f"{name}{seed}", report, name=name, seed=seed)
    return page_of(tmp_path)[0]


def test_the_best_is_the_one_with_the_largest_mean_beside_the_next_and_the_standard(tmp_path: Path) -> None:
    page = strong_and_weak(tmp_path)
    answers = {(answer.setting, answer.attack, answer.position): answer for answer in page.answers}
    assert len(answers) == len(page.answers)
    asked = {(curve.setting, curve.attack, position) for curve in page.curves for position in curve.positions}
    assert set(answers) == asked
    answer = answers[start_of(page), "worst_case", EPSILONS[1]]
    assert (answer.best, answer.standard, answer.set_aside) == ("weighted", "standard", [])
    assert [(one.role, one.other) for one in answer.comparisons] == [("next", "cascaded"), ("standard", "standard")]
    at = [0.0, *EPSILONS].index(EPSILONS[1])
    means = {name: curve_of(page, name).values[at] or 0.0 for name in page.networks}
    for one in answer.comparisons:
        assert one.difference == pytest.approx(means["weighted"] - means[one.other], abs=2e-6)
        assert one.distinct is (one.p_value is not None and one.p_value <= 0.05)
    assert answer.verdict == ("best" if all(one.distinct for one in answer.comparisons) else "chance")


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "single"), (3, "best")])
def test_one_training_is_no_verdict_however_clear_its_images(tmp_path: Path, seeds: int, verdict: str) -> None:
    for strength, name in ((0.1, "standard"), (30.0, "cascaded")):
        for seed in range(seeds):
            make_run(tmp_path / f"{name}{seed}", make_report(draw_broken_at(900, seed, strength)), name=name, seed=seed)
    page, _ = page_of(tmp_path)
    answer = next(a for a in page.answers if (a.attack, a.position) == ("fgsm", EPSILONS[1]))
    (comparison,) = (one for one in answer.comparisons if one.role == "next")
    assert (answer.best, answer.verdict, comparison.seeds, comparison.distinct) == ("cascaded", verdict, seeds, True)


def test_the_leader_and_the_verdict_are_those_of_the_comparisons(tmp_path: Path) -> None:
    for name in ("standard", "cascaded"):
        for seed in range(3):
            make_run(tmp_path / f"{name}{seed}", make_report(draw_broken_at(100, seed)), name=name, seed=seed)
    runs, problems = find_runs([tmp_path])
    frame = frame_of(runs, problems)
    summary = summarize(frame, runs)
    taken = summary.comparisons.assign(label="standard", other="cascaded", best=True, adjusted=0.01)
    settings = {row.label: row.settings for row in summary.results.itertuples()}
    taken = taken.assign(settings=settings["standard"], other_settings=settings["cascaded"])
    page = make_page(runs, frame, summary._replace(comparisons=taken), made="today", checks={})
    attacked = [answer for answer in page.answers if page.settings[answer.setting].norm]
    assert {(answer.best, answer.verdict) for answer in attacked} == {("standard", "best")}


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    """Rounded twice they may end in another digit than the tables: 0.99349999 as 99.4."""
    for seed, accuracy in enumerate((0.9934999, 0.99349995)):
        make_run(
            tmp_path / str(seed), make_report(draw_broken_at(70, seed)), seed=seed, summary={"clean_accuracy": accuracy}
        )
    runs, problems = find_runs([tmp_path])
    frame = frame_of(runs, problems)
    summary = summarize(frame, runs)
    page = make_page(runs, frame, summary, made="today", checks={})
    assert [run.clean for run in page.runs] == [0.9934999, 0.99349995]
    results = summary.results
    for name in ("value", "low", "high"):
        known = set(results[name].dropna())
        curves = {"value": "values", "low": "lows", "high": "highs"}[name]
        assert {number for curve in page.curves for number in getattr(curve, curves)} <= known


def test_each_data_set_has_a_start_with_attacks(tmp_path: Path) -> None:
    cifar100 = CIFAR | {"_target_": "symmetry_robustness.data.CIFAR100DataModule"}
    make_run(tmp_path / "a", make_report(draw_broken_at(50, 0)), data=cifar100)
    make_run(tmp_path / "b", make_report(draw_broken_at(50, 0)))
    page, _ = page_of(tmp_path)
    assert list(page.starts) == ["cifar10", "cifar100"]
    assert all(page.settings[number].data == data for data, number in page.starts.items())
    assert all(page.settings[number].norm for number in page.starts.values())


def test_measures_and_costs_of_each_network(tmp_path: Path) -> None:
    scores = [np.arange(8) / 8, np.arange(8) / 4]
    costs = {"flops": 1e9, "training_seconds": 60.0, "images_per_second": 100.0}
    for seed, found in enumerate(scores):
        report = make_report(draw_broken_at(50, seed), clever=found)
        make_run(tmp_path / str(seed), report, seed=seed, summary=costs)
    make_run(tmp_path / "other", name="other", summary=costs)
    page, _ = page_of(tmp_path)
    judged, other = page.measures
    assert (judged.network, judged.data, judged.setting, judged.checks) == (
        "standard",
        "cifar10",
        start_of(page),
        "passed",
    )
    clever = judged.values["clever"]
    assert (clever.value, clever.seeds) == (pytest.approx(np.mean(scores)), 2)
    assert clever.low is not None
    assert clever.low < clever.value
    assert judged.values["clever_median"].value == pytest.approx(np.median(scores, axis=1).mean())
    assert (other.network, other.setting, other.checks) == ("other", None, "")
    assert {name: one.value for name, one in other.values.items()} == costs | {"parameters": 1234}


def test_what_failed_a_check_is_set_aside_unless_all_did(tmp_path: Path) -> None:
    failed = (Check("nonzero_gradients", "failed", "all are zero"), Check("enough_steps", "warned", "five"))
    page = strong_and_weak(tmp_path / "one", failed)
    (answer,) = (a for a in page.answers if (a.attack, a.position) == ("worst_case", EPSILONS[1]))
    assert (answer.best, answer.set_aside) == ("cascaded", ["weighted"])
    assert answer.comparisons[0].p_value is not None
    assert (curve_of(page, "weighted").failed, curve_of(page, "weighted").warned) == (3, 0)
    assert {report.failed[0] for run in page.runs if run.network == "weighted" for report in run.reports} == {
        "nonzero_gradients"
    }
    make_run(tmp_path / "all", make_report(draw_broken_at(50, 0), checks=failed))
    alone, _ = page_of(tmp_path / "all")
    assert all((answer.best, answer.set_aside) == ("standard", []) for answer in alone.answers)


def test_protocols_and_numbers_of_images_are_settings_of_their_own(tmp_path: Path) -> None:
    released = SETTINGS | {"judge": "returned"}
    make_run(tmp_path / "a", make_report(draw_broken_at(100, 0)))
    make_run(tmp_path / "b", make_report(draw_broken_at(100, 0), settings=released), name="other")
    make_run(tmp_path / "c", make_report(draw_broken_at(200, 0)), name="third")
    page, _ = page_of(tmp_path)
    assert len(set(page.settings)) == len(page.settings) == 4  # three, and the accuracy on all test images
    assert {setting.released for setting in page.settings} == {False, True}
    attacked = [curve for curve in page.curves if curve.attack == "worst_case"]
    assert len({curve.setting for curve in attacked}) == len(attacked) == 3
    assert not page.settings[start_of(page)].released


def test_views_of_the_test_images_are_a_curve(tmp_path: Path) -> None:
    views = {f"test/rotation_{angle}/accuracy": angle / 400 for angle in (0, 90, 180)} | {"test/fog_3/accuracy": 0.5}
    for name in ("standard_4layer", "invariant_4layer"):
        make_run(tmp_path / name, name=name, summary={"test_accuracy": views})
    page, _ = page_of(tmp_path)
    curve = curve_of(page, "invariant_4layer", "rotation")
    assert (curve.axis, curve.positions, curve.values) == ("rotation", [0, 90, 180], [0, 0.225, 0.45])
    assert (curve.checked, curve_of(page, "invariant_4layer", "fog").axis) == (False, "severity")
    (answer,) = (a for a in page.answers if (a.attack, a.position) == ("rotation", 90))
    assert (answer.standard, answer.verdict) == ("standard_4layer", "untested")


def test_pictures_go_to_one_run_of_each_network_before_any_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.full((2, 3, 4, 4), 0.5, dtype=np.float32)
    shown = {"clean": images, "pgd": images + np.float32(0.1)}
    for name in ("standard", "cascaded"):
        for seed in range(2):
            report = make_report(draw_broken_at(10, seed), examples=shown)
            make_run(tmp_path / f"{name}{seed}", report, name=name, seed=seed)
    monkeypatch.setattr("symmetry_robustness.reporting.page_data._PICTURED", 2)
    _, runs = page_of(tmp_path)
    found = [details["reports"][0]["examples"] for details in all_details(runs)]
    assert [isinstance(one, list) for one in found] == [True, False, True, False]
    assert "robustness/test.npz" in found[1]


def test_the_page_of_damaged_and_hostile_runs_is_written(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    make_run(tmp_path / "a", make_report(draw_broken_at(10, 0)), name=hostile)
    (make_run(tmp_path / "b") / "summary.json").write_text("{")
    page, runs = page_of(tmp_path)
    assert [problem["kind"] for problem in page.problems] == ["damaged"]
    text = render_page(page, all_details(runs))
    assert hostile not in text
    found = re.search('<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    assert json.loads(found[1])["networks"] == [hostile]
