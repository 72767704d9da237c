"""Averages, how settings are told apart, and which network is called the best."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from symmetry_robustness.reporting.aggregate import Summary, summarize
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import find_runs
from symmetry_robustness.results.checks import Check

from .made import CIFAR, EPSILONS, SETTINGS, draw_broken_at, make_report, make_run


def summary_of(*paths: Path) -> Summary:
    runs, problems = find_runs(paths)
    assert problems == []
    return summarize(frame_of(runs), runs)


def rows_of(summary: Summary, **values: object) -> pd.DataFrame:
    rows = summary.results
    for name, value in values.items():
        rows = rows[rows[name] == value]
    return rows


def test_a_mean_over_seeds_is_that_of_the_files(tmp_path: Path) -> None:
    """Again from the npz of every seed, with scipy's interval."""
    for seed in range(3):
        make_run(tmp_path / str(seed), make_report(draw_broken_at(200, seed)), seed=seed)
    shares = []
    for seed in range(3):
        with np.load(tmp_path / str(seed) / "robustness" / "test.npz") as arrays:
            shares.append(sum(1 for value in arrays["minimal_epsilon.pgd"] if value > EPSILONS[0]) / 200)
    (row,) = rows_of(summary_of(tmp_path), attack="pgd", epsilon=EPSILONS[0]).itertuples()
    assert row.value == pytest.approx(sum(shares) / 3)
    over_seeds = stats.t.ppf(0.975, 2) * stats.sem(shares)
    over_images = 1.959964 * np.mean([np.sqrt(share * (1 - share) / 200) for share in shares])
    half = np.sqrt(over_seeds**2 + over_images**2)
    assert (row.low, row.high) == pytest.approx((np.mean(shares) - half, np.mean(shares) + half))
    about = (row.interval, row.seeds, row.seed_list, row.images)
    assert about == ("3 seeds and their images", 3, "0 1 2", 200)
    assert len(row.runs) == 3


def test_seeds_that_agree_have_an_interval_no_narrower_than_one(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / str(seed), make_report({"pgd": np.zeros(100)}), seed=seed)
    (row,) = rows_of(summary_of(tmp_path), measure="worst_case_accuracy", epsilon=EPSILONS[0]).itertuples()
    expected = stats.binomtest(0, 100).proportion_ci(0.95, method="wilson")
    assert (row.value, row.low, row.high) == pytest.approx((0.0, *expected))


def test_best_checkpoints_chosen_by_other_metrics_are_other_networks(tmp_path: Path) -> None:
    for seed, monitor in enumerate(("validation/accuracy", "robust/clean")):
        run = make_run(tmp_path / str(seed), seed=seed, config={"checkpoint": {"monitor": monitor, "mode": "max"}})
        for name in ("last.ckpt", "best.ckpt"):
            report = make_report(draw_broken_at(20, seed), provenance={"file": name})
            report.save(run / "robustness", name.partition(".")[0])
    results = summary_of(tmp_path).results
    attacked = results[results["measure"] == "robust_accuracy"]
    assert dict(attacked.groupby("weights")["seeds"].max()) == {"last.ckpt": 2, "best.ckpt": 1}


def test_one_training_each_makes_no_network_the_best(tmp_path: Path) -> None:
    for name, broken in (("strong", np.full(200, np.inf)), ("weak", np.zeros(200))):
        make_run(tmp_path / name, make_report({"pgd": broken}), name=name)
    summary = summary_of(tmp_path)
    assert summary.comparisons["adjusted"].max() < 1e-6
    assert not summary.results["best"].any()


def test_one_seed_has_an_interval_over_images(tmp_path: Path) -> None:
    report = make_report(draw_broken_at(200, 0), clever=np.arange(20) / 20)
    summary = summary_of(make_run(tmp_path / "run", report))
    (row,) = rows_of(summary, measure="worst_case_accuracy", epsilon=EPSILONS[0]).itertuples()
    expected = stats.binomtest(round(200 * row.value), 200).proportion_ci(0.95, method="wilson")
    assert (row.low, row.high) == pytest.approx(tuple(expected))
    assert row.interval == "200 images"
    (row,) = rows_of(summary, measure="clever").itertuples()
    assert (row.low, row.high) == pytest.approx(stats.t.interval(0.95, 19, row.value, row.standard_error))
    assert row.interval == "20 images"


SAME: list[Mapping[str, Any]] = [
    {"output": "elsewhere", "group": "other", "tags": ["x"], "logger": {"wandb": None}},
    {"callback": {"every_n_epochs": 5}, "checkpoint": {"monitor": "robust/clean"}, "robustness": {"checks": "cheap"}},
    {"data": {**CIFAR, "root": "/elsewhere", "evaluation_batch_size": 64, "seed": 1, "batch_size": 128}},
]
OTHER: list[tuple[Mapping[str, Any], str]] = [
    ({"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1}}, "optimizer.lr=0.1"),
    ({"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.001}}, "optimizer=SGD"),
    ({"trainer": {"max_epochs": 3}}, "trainer.max_epochs=3"),
    ({"model": {"stem": {"channels": 32}}}, "model.stem.channels=32"),
    ({"data": {**CIFAR, "seed": 1, "batch_size": 128, "train_size": 100}}, "data.train_size=100"),
    ({"data": {**CIFAR, "seed": 1, "batch_size": 64}}, "data.batch_size=64"),
    ({"compute": {"precision": "16-mixed"}}, "compute.precision=16-mixed"),
    (
        {"data": {**CIFAR, "seed": 1, "batch_size": 128, "augmentation": {"_target_": "a.Augmentations", "cutout": 1}}},
        "data.augmentation=a.Augmentations(cutout=1)",
    ),
]


@pytest.mark.parametrize("config", SAME)
def test_what_changes_no_number_is_averaged(config: Mapping[str, Any], tmp_path: Path) -> None:
    make_run(tmp_path / "0", make_report(draw_broken_at(20, 0)))
    make_run(tmp_path / "1", make_report(draw_broken_at(20, 1)), seed=1, config=config)
    assert set(summary_of(tmp_path).results["seeds"]) == {2}


@pytest.mark.parametrize(("config", "named"), OTHER)
def test_trainings_that_differ_are_told_apart_by_name(config: Mapping[str, Any], named: str, tmp_path: Path) -> None:
    make_run(tmp_path / "0", make_report(draw_broken_at(20, 0)))
    make_run(tmp_path / "1", make_report(draw_broken_at(20, 1)), seed=1, config=config)
    summary = summary_of(tmp_path)
    assert set(summary.results["seeds"]) == {1}
    first, second = rows_of(summary, measure="clean_accuracy")["label"]
    assert second == f"standard ({named})"
    assert first.startswith("standard (")


def test_jobs_that_chose_other_precisions_are_told_apart(tmp_path: Path) -> None:
    for seed, precision in enumerate(("32-true", "bf16-mixed")):
        config = {"compute": {"precision": "auto"}}
        run = make_run(tmp_path / str(seed), make_report(draw_broken_at(20, seed)), seed=seed, config=config)
        (run / "provenance.json").write_text(json.dumps({"compute": {"precision": precision}}))
    labels = rows_of(summary_of(tmp_path), measure="clean_accuracy")["label"]
    assert set(labels) == {"standard (compute.precision=32-true)", "standard (compute.precision=bf16-mixed)"}


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": SETTINGS | {"seed": 1}},
        {"settings": SETTINGS | {"judge": "returned"}},
        {"settings": SETTINGS | {"bounds": [0.5, 1.0]}},
        {"settings": SETTINGS | {"attacks": {"fgsm": {"class": "FGSM"}, "pgd": {"class": "PGD", "steps": 20}}}},
        {"settings": SETTINGS | {"clever": {"radius": 2.0}}},
        {"settings": SETTINGS | {"norm": "l2"}, "norm": "l2"},
        {"settings": SETTINGS | {"epsilons": [0.1, 0.2, 0.3]}, "epsilons": (0.1, 0.2, 0.3)},
        {"provenance": {"split": "validation"}},
        {"provenance": {"data": CIFAR | {"copy": "other"}}},
        {"provenance": {"data": CIFAR | {"_target_": "symmetry_robustness.data.CIFAR100DataModule"}}},
    ],
)
def test_evaluations_that_differ_stand_in_sections_of_their_own(changes: Mapping[str, Any], tmp_path: Path) -> None:
    make_run(tmp_path / "0", make_report(draw_broken_at(20, 0)))
    make_run(tmp_path / "1", make_report(draw_broken_at(20, 1), **changes), seed=1)
    rows = rows_of(summary_of(tmp_path), measure="clean_accuracy")
    assert list(rows["seeds"]) == [1, 1]
    assert rows["comparison_group"].nunique() == 2
    assert not rows["best"].any()


def test_another_number_of_images_is_another_section(tmp_path: Path) -> None:
    make_run(tmp_path / "0", make_report(draw_broken_at(20, 0)))
    make_run(tmp_path / "1", make_report(draw_broken_at(30, 1)), seed=1)
    assert rows_of(summary_of(tmp_path), measure="clean_accuracy")["comparison_group"].nunique() == 2


def test_what_only_checks_differ_in_is_one_section(tmp_path: Path) -> None:
    """And settings that early reports did not name are the sound ones."""
    make_run(tmp_path / "0", make_report(draw_broken_at(20, 0)))
    settings = SETTINGS | {"checks": "cheap", "cascade": False, "mode": "evaluation", "outside": "discard"}
    make_run(tmp_path / "1", make_report(draw_broken_at(20, 1), settings=settings), seed=1)
    assert list(rows_of(summary_of(tmp_path), measure="clean_accuracy")["seeds"]) == [2]


def test_another_checkpoint_of_a_run_is_another_network(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_report(draw_broken_at(20, 0)))
    make_report(draw_broken_at(20, 1), provenance={"file": "best.ckpt"}).save(run / "robustness", "best")
    labels = set(rows_of(summary_of(tmp_path), measure="clean_accuracy")["label"])
    assert labels == {"standard (weights=last.ckpt)", "standard (weights=best.ckpt)"}


def networks(directory: Path, **strengths: float) -> Summary:
    """Three seeds of some networks, on the same images."""
    for number, (name, strength) in enumerate(strengths.items()):
        for seed in range(3):
            report = make_report(draw_broken_at(400, 10 * number + seed, strength))
            make_run(directory / f"{name}{seed}", report, name=name, seed=seed)
    return summary_of(directory)


def test_the_best_is_marked_where_it_beats_every_other(tmp_path: Path) -> None:
    summary = networks(tmp_path, strong=9.0, weak=1.0, weaker=0.5)
    rows = rows_of(summary, measure="worst_case_accuracy", epsilon=EPSILONS[2])
    assert dict(zip(rows["network"], rows["best"], strict=True)) == {"strong": True, "weak": False, "weaker": False}
    found = summary.comparisons
    found = found[(found["measure"] == "worst_case_accuracy") & (found["epsilon"] == EPSILONS[2])]
    assert set(found["other"]) == {"weak", "weaker"}
    by_hand = sorted(found["p_value"])
    assert sorted(found["adjusted"]) == pytest.approx([min(1, 2 * by_hand[0]), max(2 * by_hand[0], by_hand[1])])
    leader = rows[rows["network"] == "strong"].iloc[0]
    assert leader["p_value"] == pytest.approx(found["adjusted"].max())
    assert leader["p_value"] <= 0.05


def test_none_is_best_where_one_other_is_as_good(tmp_path: Path) -> None:
    summary = networks(tmp_path, strong=9.0, equal=9.0, weak=0.5)
    assert not rows_of(summary, measure="worst_case_accuracy", epsilon=EPSILONS[2])["best"].any()


def test_what_failed_a_check_does_not_lead(tmp_path: Path) -> None:
    checks = {"masked": "failed", "strong": "passed", "weak": "warned"}
    for number, (name, status) in enumerate(checks.items()):
        for seed in range(3):
            broken_at = draw_broken_at(400, 10 * number + seed, (99.0, 9.0, 0.1)[number])
            report = make_report(broken_at, checks=(Check("inside_ball", status, ""),))
            make_run(tmp_path / f"{name}{seed}", report, name=name, seed=seed)
    rows = rows_of(summary_of(tmp_path), measure="worst_case_accuracy", epsilon=EPSILONS[2])
    assert dict(zip(rows["network"], rows["best"], strict=True)) == {"masked": False, "strong": True, "weak": False}


def test_a_single_network_is_not_the_best(tmp_path: Path) -> None:
    assert not networks(tmp_path, strong=9.0).results["best"].any()


def test_networks_on_other_images_are_not_compared(tmp_path: Path) -> None:
    for number, (name, strength) in enumerate({"strong": 9.0, "weak": 0.1}.items()):
        report = make_report(draw_broken_at(400, number, strength), indices=np.arange(400) + 7 * number)
        make_run(tmp_path / name, report, name=name)
    summary = summary_of(tmp_path)
    assert set(summary.comparisons["test"]) == {"not on the same images"}
    assert not summary.results["best"].any()


def test_networks_of_other_seeds_are_not_compared(tmp_path: Path) -> None:
    for seed, (name, strength) in enumerate({"strong": 9.0, "weak": 0.1}.items()):
        make_run(tmp_path / name, make_report(draw_broken_at(400, seed, strength)), name=name, seed=seed)
    summary = summary_of(tmp_path)
    assert set(summary.comparisons["test"]) == {"no seed in common"}
    assert not summary.results["best"].any()


def test_a_section_says_what_else_the_networks_differ_in(tmp_path: Path) -> None:
    make_run(tmp_path / "0", make_report(draw_broken_at(20, 0)))
    other = {"trainer": {"max_epochs": 50}, "model": {"stem": {"channels": 8}}}
    make_run(tmp_path / "1", make_report(draw_broken_at(20, 1)), name="cascaded", config=other)
    summary = summary_of(tmp_path)
    assert {section.training_differs_in for section in summary.groups.values()} == {"trainer.max_epochs"}


def test_checks_that_failed_once_are_not_forgotten(tmp_path: Path) -> None:
    for seed, status in enumerate(("failed", "passed", "warned")):
        report = make_report(draw_broken_at(20, seed), checks=(Check("inside_ball", status, ""),))
        make_run(tmp_path / str(seed), report, seed=seed)
    assert set(rows_of(summary_of(tmp_path), measure="clean_accuracy")["checks"]) == {"failed"}
