import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from symmetry_robustness.corruption_names import BENCHMARK
from symmetry_robustness.reporting import load_runs
from symmetry_robustness.reporting.frame import COLUMNS

from .made import ALL_BROKEN_AT, CIFAR, EPSILONS, SETTINGS, draw_broken_at, make_report, make_run

CIFAR10C = CIFAR | {
    "_target_": "symmetry_robustness.data.CIFAR10C",
    "corruptions": "all",
    "severities": [1, 2, 3, 4, 5],
}


def one(frame: pd.DataFrame, **values: object) -> pd.Series:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    """Every accuracy again, from the npz, image by image."""
    run = make_run(tmp_path / "run", make_report(draw_broken_at(200, 0)))
    frame = load_runs(run)
    with np.load(run / "robustness" / "test.npz") as arrays:
        broken = {name: arrays[f"minimal_epsilon.{name}"] for name in ("fgsm", "pgd")}
        right = [int(p == t) for p, t in zip(arrays["predictions"], arrays["labels"], strict=True)]
    clean = one(frame, measure="clean_accuracy")
    assert clean.value == pytest.approx(sum(right) / 200)
    assert clean.images == 200
    for epsilon in EPSILONS:
        for name in broken:
            standing = [e > epsilon for e in broken[name]]
            row = one(frame, measure="robust_accuracy", attack=name, epsilon=epsilon)
            assert row.value == pytest.approx(sum(standing) / 200)
            assert row.standard_error == pytest.approx(np.std(standing) / np.sqrt(200))
        both = [min(broken["fgsm"][i], broken["pgd"][i]) > epsilon for i in range(200)]
        assert one(frame, measure="worst_case_accuracy", epsilon=epsilon).value == pytest.approx(sum(both) / 200)


def test_each_row_says_what_it_is(tmp_path: Path) -> None:
    frame = load_runs([str(make_run(tmp_path / "run", make_report({"pgd": ALL_BROKEN_AT}), seed=3))])
    assert tuple(frame.columns) == COLUMNS
    row = one(frame, attack="pgd", epsilon=EPSILONS[0])
    about = {"network": "standard", "group": "made", "data": "cifar10", "seed": 3, "protocol": "test", "norm": "linf"}
    about |= {"released": False, "split": "test", "checks": "passed", "commit": "abc", "epochs": 200, "images": 10}
    assert {name: row[name] for name in about} == about
    assert one(frame, measure="parameters").value == 1234
    whole = one(frame, measure="test_accuracy")
    assert (whole.images, whole.standard_error) == (10_000, pytest.approx(np.sqrt(0.85 * 0.15 / 10_000)))


def test_clever_has_mean_error_and_quartiles(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(40)
    report = make_report(draw_broken_at(100, 0), clever=scores)
    frame = load_runs(make_run(tmp_path / "run", report))
    mean = one(frame, measure="clever")
    assert (mean.value, mean.standard_error) == pytest.approx((scores.mean(), scores.std(ddof=1) / np.sqrt(40)))
    assert (mean.norm, mean.images) == ("l2", 40)
    for measure, share in (("clever_q25", 0.25), ("clever_median", 0.5), ("clever_q75", 0.75)):
        assert one(frame, measure=measure).value == pytest.approx(np.quantile(scores, share))


def test_measures_have_their_standard_errors(tmp_path: Path) -> None:
    arrays = {"value": np.arange(10.0), "kept": np.full((10, 2), np.nan), "indices": np.arange(10)}
    report = make_report({"pgd": ALL_BROKEN_AT}, measures={"removal": arrays})
    frame = load_runs(make_run(tmp_path / "run", report))
    row = one(frame, measure="removal")
    assert (row.value, row.standard_error) == pytest.approx((4.5, np.arange(10).std(ddof=1) / np.sqrt(10)))
    assert not (frame["measure"] == "removal.kept").any()


def test_the_same_image_under_many_corruptions_is_one(tmp_path: Path) -> None:
    """Every image is broken in all versions or in none, so five versions of ten images tell as much as ten images."""
    indices = np.concatenate([np.arange(10) + 10_000 * version for version in range(5)])
    measures = {"removal": {"value": np.tile(np.arange(10.0), 5), "indices": indices}}
    report = make_report({"pgd": np.tile(ALL_BROKEN_AT, 5)}, indices=indices, measures=measures)
    frame = load_runs(make_run(tmp_path / "run", report, data=CIFAR10C))
    row = one(frame, attack="pgd", epsilon=EPSILONS[0])
    assert (row.value, row.standard_error) == pytest.approx((0.7, np.sqrt(0.7 * 0.3 / 10)))
    assert one(frame, measure="removal").standard_error == pytest.approx(np.arange(10).std(ddof=1) / np.sqrt(10))


def test_the_corruption_error_is_the_mean_over_the_benchmark(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = [f"{corruption}_{severity}" for corruption in (*BENCHMARK, "spatter") for severity in range(1, 6)]
    accuracies = dict(zip(names, generator.random(len(names)), strict=True))
    tested = {f"test/{name}/accuracy": value for name, value in accuracies.items()}
    frame = load_runs(make_run(tmp_path / "run", data=CIFAR10C, summary={"test_accuracy": tested}))
    expected = [1 - accuracies[name] for name in names if not name.startswith("spatter")]
    row = one(frame, measure="mean_corruption_error")
    assert row.value == pytest.approx(sum(expected) / 75)
    errors = [np.sqrt(e * (1 - e) / 10_000) for e in expected]
    assert row.standard_error == pytest.approx(sum(errors) / 75)
    assert one(frame, view="fog_3").value == accuracies["fog_3"]


def test_a_measure_that_bounds_distances_has_quartiles_in_its_norm(tmp_path: Path) -> None:
    """Whatever the measure is called, and whichever of its arrays is the bound."""
    radii = np.random.default_rng(0).random(40)
    settings = {"class": "of a user", "norm": "l1", "lower_bound": "radius"}
    report = make_report(
        draw_broken_at(40, 0),
        measures={"certified": {"radius": radii, "votes": radii, "indices": np.arange(40)}},
        settings=SETTINGS | {"measures": {"certified": settings}},
    )
    frame = load_runs(make_run(tmp_path / "run", report))
    assert one(frame, measure="certified.radius").norm == "l1"
    assert one(frame, measure="certified.radius_median").value == pytest.approx(np.median(radii))
    assert one(frame, measure="certified.votes").norm == ""
    assert not (frame["measure"] == "certified.votes_median").any()


def test_the_size_of_test_sets_is_that_which_the_run_states(tmp_path: Path) -> None:
    data = CIFAR | {"_target_": "mine.Data", "test_size": 5}
    errors = [
        one(load_runs(make_run(tmp_path / name, data=data, summary=stated)), measure="test_accuracy").standard_error
        for name, stated in (("old", {}), ("new", {"test_images": 400}))
    ]
    assert np.isnan(errors[0])
    assert errors[1] == pytest.approx(np.sqrt(0.85 * 0.15 / 400))


def test_what_no_number_was_taken_from_is_listed(tmp_path: Path) -> None:
    report = make_report({"pgd": ALL_BROKEN_AT})
    make_run(tmp_path / "good", report)
    (make_run(tmp_path / "unfinished", report) / "summary.json").unlink()
    assert [(problem["kind"], Path(problem["path"]).name) for problem in load_runs(tmp_path).attrs["problems"]] == [
        ("unfinished", "unfinished")
    ]


def test_a_copy_of_a_run_is_no_further_seed(tmp_path: Path) -> None:
    report = make_report({"pgd": ALL_BROKEN_AT})
    first, second = (make_run(tmp_path / name, report) for name in ("a", "b"))
    frame = load_runs([first, second])
    assert set(frame["run"]) == {str(first)}
    (problem,) = frame.attrs["problems"]
    assert (problem["kind"], problem["path"]) == ("repeated", str(second))


def test_the_same_evaluation_once_more_counts_once(tmp_path: Path) -> None:
    report = make_report({"pgd": ALL_BROKEN_AT})
    run = make_run(tmp_path / "run", report)
    report_again = make_report({"pgd": ALL_BROKEN_AT}, provenance={"file": "last.ckpt", "split": "test"})
    report_again.save(run / "robustness", "again")
    frame = load_runs(run)
    assert set(frame["protocol"]) == {"", "test"}
    best = make_report({"pgd": ALL_BROKEN_AT}, provenance={"file": "best.ckpt", "split": "test"})
    best.save(run / "robustness", "again")
    frame = load_runs(run)
    assert set(frame[frame["protocol"] == "again"]["weights"]) == {"best.ckpt"}


def test_a_frame_is_written_with_its_problems(tmp_path: Path) -> None:
    make_run(tmp_path / "good", make_report({"pgd": ALL_BROKEN_AT}))
    frame = load_runs(tmp_path)
    frame.to_parquet(tmp_path / "runs.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet"), frame)


@pytest.mark.parametrize(("module", "absent"), [("figures", "pandas"), ("figures.from_runs", "torch")])
def test_nobody_waits_for_what_is_not_needed(module: str, absent: str) -> None:
    """A training draws figures without pandas, and a report is made without torch."""
    code = f"import sys, symmetry_robustness.reporting.{module}; sys.exit('{absent}' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
