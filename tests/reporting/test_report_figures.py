"""Which figures a report draws, and that they show the numbers of its tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmetry_robustness.corruption_names import BENCHMARK, SEVERITIES
from symmetry_robustness.reporting.aggregate import Summary, summarize
from symmetry_robustness.reporting.comparability import shown_data
from symmetry_robustness.reporting.figures import style
from symmetry_robustness.reporting.figures.from_runs import (
    corruption_figures,
    network_names,
    run_figures,
    view_figures,
    write_figures,
)
from symmetry_robustness.reporting.figures.style import NETWORKS, Figures
from symmetry_robustness.reporting.figures.under_attack import attack_figures
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import Run, find_runs
from symmetry_robustness.results.plots import Distribution, Panel, equivariance_plots, plots_to_plain

from .made import CIFAR, EPSILONS, draw_broken_at, make_report, make_run
from .made_page import summary_of

CIFAR100 = CIFAR | {"_target_": "symmetry_robustness.data.CIFAR100DataModule"}


def read(directory: Path) -> tuple[list[Run], Summary]:
    runs, problems = find_runs([directory])
    assert problems == []
    return runs, summarize(frame_of(runs), runs)


def drawn_runs(directory: Path) -> tuple[Figures, list[str]]:
    runs, summary = read(directory)
    notes: list[str] = []
    return dict(run_figures(runs, network_names(summary), notes)), notes


def make_sweep(directory: Path, networks: list[str], data: Any = CIFAR, seeds: int = 3) -> None:
    for place, name in enumerate(networks):
        for seed in range(seeds):
            report = make_report(draw_broken_at(60, 10 * place + seed, strength=1 + place))
            make_run(directory / f"{len(list(directory.glob('*')))}", report, name=name, seed=seed, data=data)


def test_depths_are_rows_and_data_and_attacks_columns(tmp_path: Path) -> None:
    for data in (CIFAR, CIFAR100):
        make_sweep(tmp_path, ["standard", "weighted", "standard_4layer", "weighted_4layer"], data)
    _, summary = read(tmp_path)
    notes: list[str] = []
    figures = dict(attack_figures(summary, notes))
    curves = figures["curves-test-fgsm"]  # three attacks and two data sets are too many for one figure
    assert [panel.get_title() for panel in curves.axes] == ["CIFAR-10", "CIFAR-100", "", ""]
    assert [panel.get_ylabel().partition("\n")[0] for panel in curves.axes] == ["4 layers", "", "full depth", ""]
    assert set(figures) == {
        *(f"curves-test-{attack}" for attack in ("fgsm", "pgd", "worst case over attacks")),
        *(f"bars-test-{data}-{depth}" for data in ("cifar10", "cifar100") for depth in ("4 layers", "full depth")),
    }
    assert notes == []
    assert "final evaluation (sound), 60 test images" in curves.get_suptitle()
    assert "95 % over 3 seeds" in curves.get_suptitle()


def test_a_network_of_unknown_depth_stands_among_the_others_unless_they_have_two_depths(tmp_path: Path) -> None:
    make_sweep(tmp_path, ["standard_4layer"], seeds=1)
    make_report(draw_broken_at(60, 5), provenance={"data": {**CIFAR, "seed": 0}}).save(tmp_path / "mine", "mine")
    notes: list[str] = []
    both, saved = [tmp_path / "0"], [tmp_path / "mine"]
    figures = dict(attack_figures(summary_of(*both, *saved)[0], notes))
    assert {line.get_label() for line in figures["curves-test"].axes[0].get_lines()} == {"standard", "mine"}
    assert "bars-test" in figures
    assert notes == []
    make_sweep(tmp_path / "full", ["standard", "cascaded"], seeds=1)
    figures = dict(attack_figures(summary_of(*both, *saved, tmp_path / "full")[0], notes))
    rows = [panel.get_ylabel().partition("\n")[0] for panel in figures["curves-test"].axes]
    assert [row for row in rows if row] == ["4 layers", "depth not known", "full depth"]
    assert notes == [f"bars, test, {depth}: no bars of a single network" for depth in ("4 layers", "depth not known")]


def test_curves_and_bars_show_means_intervals_and_the_best_of_the_tables(tmp_path: Path) -> None:
    make_sweep(tmp_path, ["standard", "weighted"])
    _, summary = read(tmp_path)
    figures = dict(attack_figures(summary, []))
    panel = next(panel for panel in figures["curves-test"].axes if panel.get_title() == "PGD")
    rows = summary.results[(summary.results["network"] == "weighted") & (summary.results["view"] == "")]
    under = rows[rows["attack"] == "pgd"].sort_values("epsilon")
    line = panel.get_lines()[1]
    assert line.get_label() == "weighted"
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [0, *EPSILONS])
    clean = rows.loc[rows["measure"] == "clean_accuracy", "value"]
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [*clean, *under["value"]])
    band = panel.collections[1].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(max(rows.loc[rows["measure"] == "clean_accuracy", "high"]))
    bars = next(panel for panel in figures["bars-test"].axes if panel.get_title() == "PGD")
    heights = [patch.get_height() for patch in bars.patches]
    np.testing.assert_allclose(heights[4:], [*clean, *under["value"]])
    assert [label.get_text() for label in bars.get_xticklabels()] == ["clean", "2/255", "4/255", "8/255"]


def test_a_released_protocol_and_failed_checks_are_named(tmp_path: Path) -> None:
    report = make_report(draw_broken_at(60, 0))
    failed = [check._replace(status="failed") for check in report.checks]
    make_run(tmp_path / "0", make_report(draw_broken_at(60, 0), checks=tuple(failed)))
    released = make_report(draw_broken_at(60, 1), settings={**report.settings, "judge": "returned"})
    released.save(make_run(tmp_path / "1", report, name="weighted") / "robustness", "reenacted")
    figures = dict(attack_figures(read(tmp_path)[1], []))
    labels = [line.get_label() for line in figures["curves-test"].axes[0].get_lines()]
    assert labels == ["standard ⚠ checks failed", "weighted"]
    assert "released, no sound evaluation" in figures["curves-reenacted"].get_suptitle()


def test_more_networks_than_can_be_told_apart_are_left_out_aloud(tmp_path: Path) -> None:
    names = [f"network{place}" for place in range(NETWORKS + 2)]
    make_sweep(tmp_path, names, seeds=1)
    _, summary = read(tmp_path)
    notes: list[str] = []
    figures = dict(attack_figures(summary, notes))
    shown = {line.get_label() for line in figures["curves-test"].axes[0].get_lines()}
    rows = summary.results[summary.results["measure"] == "worst_case_accuracy"]
    area = rows.groupby("network")["value"].mean().sort_values(kind="stable")
    assert shown == set(area.index[2:])
    assert notes == [f"test, full depth: the {NETWORKS} most robust of {NETWORKS + 2} networks are drawn"]
    _, others = drawn_runs(tmp_path)
    assert others == ["examples and measures: 4 of 9 networks are drawn"]


def test_each_architecture_is_drawn_before_any_is_drawn_twice() -> None:
    found = {
        "flat": "flat",
        "flat (8)": "flat",
        "Gabor (8)": "8",
        "Gabor (16)": "16",
        "flat (9)": "flat",
        "deep": "deep",
    }
    notes: list[str] = []
    shown = style.first_of(found, found.__getitem__, 5, "maps", notes)
    assert [*shown] == ["flat", "flat (8)", "Gabor (8)", "Gabor (16)", "deep"]
    assert notes == ["maps: 5 of 6 networks are drawn"]


def test_views_and_corruptions(tmp_path: Path) -> None:
    angles = {f"test/rotation_{angle}/accuracy": 0.9 - angle / 1000 for angle in (0, 90, 180, 270)}
    cells = {f"test/{name}_{severity}/accuracy": 1 - severity / 10 for name in BENCHMARK for severity in SEVERITIES}
    corrupted = CIFAR | {"corruptions": "benchmark", "severities": [1, 2, 3, 4, 5]}
    for seed in range(2):
        make_run(tmp_path / f"turned{seed}", summary={"test_accuracy": angles}, seed=seed)
        make_run(tmp_path / f"corrupted{seed}", summary={"test_accuracy": cells}, data=corrupted, seed=seed)
    _, summary = read(tmp_path)
    notes: list[str] = []
    views = dict(view_figures(summary, notes))
    assert set(views) == {"views-rotation", "views-rotation-circle"}
    (line,) = views["views-rotation"].axes[0].get_lines()
    np.testing.assert_allclose(np.asarray(line.get_xydata()), [[0, 0.9], [90, 0.81], [180, 0.72], [270, 0.63]])
    figure = dict(corruption_figures(summary, notes))["corruptions"]
    np.testing.assert_allclose(figure.axes[0].get_images()[0].get_array(), np.tile(np.arange(1, 6) / 10, (15, 1)))
    assert figure.axes[0].get_title() == "standard\nmean 30.0 %"
    assert notes == []


def test_robustness_over_epochs_is_read_from_the_metrics(tmp_path: Path) -> None:
    """Two seeds; epochs 0 and 4 were evaluated, and epoch 1 was not."""
    accuracies = np.random.default_rng(0).random((2, 2, 4))
    names = ["robust/clean", *(f"robust/worst_case/linf_{epsilon:.4g}" for epsilon in EPSILONS)]
    for seed in range(2):
        rows = [",".join(["step,epoch,robust/images", *names])]
        rows += [f"{epoch},{epoch},40,{','.join(map(str, accuracies[seed, at]))}" for at, epoch in enumerate((0, 4))]
        (make_run(tmp_path / str(seed), seed=seed) / "metrics.csv").write_text("\n".join([*rows, "1,1,,,,,"]))
    figures, notes = drawn_runs(tmp_path)
    assert [panel.get_title() for panel in figures["epochs"].axes] == [
        "clean", "worst case, ℓ∞ ε = 2/255", "worst case, ℓ∞ ε = 4/255", "worst case, ℓ∞ ε = 8/255",
    ]  # fmt: skip
    (line,) = figures["epochs"].axes[1].get_lines()
    assert list(np.asarray(line.get_xdata())) == [1, 5]
    np.testing.assert_allclose(np.asarray(line.get_ydata()), accuracies[:, :, 1].mean(axis=0))
    assert notes == []


def test_clever_meets_distances_of_the_same_images_in_its_norm(tmp_path: Path) -> None:
    """Scores of images 0 to 4 in l2, distances of images 2 to 7 in l2: 2, 3 and 4 have both; 3 is misclassified."""
    run = make_run(tmp_path / "run", make_report(draw_broken_at(10, 0)))
    make_report(draw_broken_at(10, 0), clever=np.arange(5) / 10).save(run / "robustness", "clever")
    distances = np.array([0.1, 0.0, 0.5, 1.0, 1.0, 1.0])
    measures = {"minimal_l2": {
        "distance": distances, "saturated": distances == 0.5, "indices": np.arange(2, 8)
    }}  # fmt: skip
    settings = make_report(draw_broken_at(10, 0)).settings | {
        "measures": {"minimal_l2": {"class": "MinimalDistance", "norm": "l2", "upper_bound": "distance"}}
    }
    make_report(draw_broken_at(10, 0), measures=measures, settings=settings).save(run / "robustness", "paper")
    figures, _ = drawn_runs(tmp_path)
    (panel,) = figures["clever-l2"].axes
    points = {group.get_label(): np.asarray(group.get_offsets()).tolist() for group in panel.collections}
    assert points == {"estimate above it": [[0.1, 0.2]], "not broken up to there": [[0.5, 0.4]]}
    assert panel.get_title() == "standard: 1 of 1 above"


def test_measures_are_drawn_as_they_declare(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    angles = [60.0, 120.0, 240.0]
    shape = (60, len(angles))
    symmetry = {
        "disc.correct": np.ones(60, bool), "rotation.correct": np.ones(shape, bool),
        "rotation.consistent": np.ones(shape, bool), "rotation.error.logits": np.ones(shape),
        "rotation.floor.logits": np.full(shape, 0.1), "indices": np.arange(60),
    }  # fmt: skip
    removal = {"value": np.full(60, 0.25), "left": images, "indices": np.arange(60)}
    plots = {
        "removal": [Distribution("value", "tolerance"), Panel("left", "value", "removed")],
        "symmetry": equivariance_plots(angles, [], layers=False),
    }
    declared = {name: {"class": "of a user", "plots": plots_to_plain(found)} for name, found in plots.items()}
    report = make_report(
        draw_broken_at(60, 0),
        measures={"removal": removal, "symmetry": symmetry},
        settings=make_report(draw_broken_at(60, 0)).settings | {"measures": declared},
        examples={"clean": images, "fgsm": images, "pgd": images},
    )
    for name in ("standard", "weighted"):
        make_run(tmp_path / name, report, name=name)
    figures, notes = drawn_runs(tmp_path)
    assert set(figures) == {"symmetry-circle-test", "distributions-test"} | {
        f"{kind}-test-{name}"
        for kind in ("examples", "removal-examples", "symmetry-circle", "symmetry-curves")
        for name in ("standard", "weighted")
    }
    assert len(figures["symmetry-circle-test"].axes[0].get_lines()) == 2
    assert len(figures["distributions-test"].axes[0].get_lines()) == 2
    own = figures["symmetry-circle-test-standard"].axes[0].get_lines()
    assert [line.get_label() for line in own] == ["accuracy", "same prediction"]
    np.testing.assert_allclose(np.degrees(np.asarray(own[0].get_xdata())), [0, 60, 120, 240, 360])
    assert notes == []


def test_files_are_pdf_and_png_by_safe_names(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", ["standard"], seeds=1)
    runs, summary = read(tmp_path / "runs")
    assert write_figures(runs, summary, tmp_path / "figures") == []
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["curves-test.pdf", "curves-test.png"]


def test_networks_of_one_name_are_told_apart_by_their_data(tmp_path: Path) -> None:
    for data in (CIFAR, CIFAR100):
        make_sweep(tmp_path, ["parallel_scale"], data, seeds=1)
    _, summary = read(tmp_path)
    assert sorted(network_names(summary).values()) == ["parallel scale, cifar10", "parallel scale, cifar100"]


@pytest.mark.parametrize(
    ("data", "title"),
    [
        ("cifar10", "CIFAR-10"),
        ("cifar100", "CIFAR-100"),
        ("cifar10c (x)", "CIFAR-10-C (x)"),
        ("shapes", "shapes"),
        ("shapes (upright, test_transform=RotatedViews(angles=0,90))", "shapes (upright, RotatedViews)"),
    ],
)
def test_data_sets_are_written_as_people_write_them(data: str, title: str) -> None:
    assert shown_data(data) == title


@pytest.mark.parametrize("file", ["last.ckpt", "best.ckpt", "renamed.ckpt"])
def test_reports_of_a_checkpoint_of_any_name_have_figures_without_a_run(file: str, tmp_path: Path) -> None:
    for stem in ("quick", "paper"):
        report = make_report(draw_broken_at(40, 0), provenance={"file": file, "data": CIFAR})
        report.save(tmp_path / "moved" / "robustness", stem)
    runs, problems = find_runs([tmp_path / "moved" / "robustness"])
    assert (len(runs), problems) == (1, [])
    summary = summarize(frame_of(runs), runs)
    assert write_figures(runs, summary, tmp_path / "figures") is not None
    assert list((tmp_path / "figures").iterdir())
