"""The price of robustness in a report, read off runs whose costs and accuracies are made by hand."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from playwright.sync_api import Browser

from symmetry_robustness.reporting.aggregate import Summary, summarize
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import Run, find_runs
from symmetry_robustness.reporting.page.page import write_page
from symmetry_robustness.reporting.tradeoff import defence, tradeoff_figures, tradeoff_tables, tradeoffs
from symmetry_robustness.results.checks import Check

from .browser import Opened
from .made import EPSILONS, make_report, make_run

IMAGES, SEEDS = 100, 2
OBJECTIVES = "symmetry_robustness.training.objectives."
# Network and objective: TFLOPs of the training, images of a hundred that withstand the largest epsilon, checks.
TRAININGS: Mapping[tuple[str, str], tuple[float, int, str]] = {
    ("standard", "CrossEntropy"): (1.0, 10, "passed"),
    ("invariant", "CrossEntropy"): (2.0, 30, "passed"),
    ("standard", "NFGSM"): (2.0, 25, "passed"),
    ("standard", "TRADES"): (12.0, 50, "passed"),
    ("invariant", "TRADES"): (24.0, 40, "passed"),
    ("standard", "Curvature"): (3.0, 90, "failed"),
}
PASSES = {"CrossEntropy": (1, 1), "NFGSM": (2, 2), "TRADES": (13, 12), "Curvature": (3, 7)}


def make(directory: Path, hardware: Mapping[str, str] = {}, **left_out: None) -> Path:
    for (network, objective), (flops, standing, status) in TRAININGS.items():
        for seed in range(SEEDS):
            broken_at = np.full(IMAGES, EPSILONS[0])
            broken_at[: standing - seed] = np.inf
            report = make_report(
                {"fgsm": broken_at, "pgd": broken_at},
                checks=(Check("inside_ball", status, ""),),  # type: ignore[arg-type]
            )
            costs: dict[str, Any] = {
                "training_flops": flops * 1e12,
                "training_seconds": 100 * flops + seed,
                "forward_passes": PASSES[objective][0],
                "backward_passes": PASSES[objective][1],
                "hardware": hardware.get(objective, "a processor, 1 thread"),
            }
            make_run(
                directory / f"{network}-{objective}-{seed}",
                report,
                name=network,
                seed=seed,
                config={"objective": {"_target_": OBJECTIVES + objective}, "model": {"num_classes": 2}},
                summary={key: value for key, value in costs.items() if key not in left_out},
            )
    return directory


def read(directory: Path) -> tuple[Summary, list[Run]]:
    runs, problems = find_runs([directory])
    assert not problems
    return summarize(frame_of(runs), runs), runs


def test_the_front_and_the_answers_are_those_of_the_numbers(tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path))
    found = tradeoffs(summary, runs)
    assert [one.epsilon for one in found] == pytest.approx(list(EPSILONS))
    last = found[-1]
    assert last.kinds == ["training_flops", "training_seconds"]
    assert (last.standard.network, last.standard.defence) == ("standard", "CrossEntropy")
    front = [(point.network, point.defence) for point in last.front("training_flops", summary.guessing)]
    # Curvature failed a check, N-FGSM costs as much as a better one, the last TRADES more than a better one.
    assert front == [("standard", "CrossEntropy"), ("invariant", "CrossEntropy"), ("standard", "TRADES")]
    prices = {(point.network, point.defence): last.price(point, "training_seconds") for point in last.points}
    assert prices["standard", "TRADES"] == pytest.approx(1200.5 / 100.5)

    answers, points = tradeoff_tables(found, summary.guessing).tables
    assert answers.title.startswith("Most robust for at most x times the cost of standard training, cifar10")
    said = {row[0].text: row[-1].text for row in answers.rows}
    assert list(said) == [f"at most {x:g}×" for x in (1, 1.5, 2, 3, 5, 10, 20)] + ["any cost"]
    assert said["at most 1.5×"].startswith("standard, CrossEntropy: 9.5 [")
    assert said["at most 2×"].startswith("invariant, CrossEntropy: 29.5 [")
    assert said["at most 10×"].startswith("invariant, CrossEntropy: 29.5 [")
    assert said["at most 20×"].startswith("standard, TRADES: 49.5 [")
    assert said["at most 20×"].endswith("% for 12×")
    assert said["any cost"] == said["at most 20×"]
    assert "Seconds on a processor, 1 thread." in answers.notes

    assert len(points.rows) == len(TRAININGS)
    by_name = {(row[0].text, row[1].text): row for row in points.rows}
    assert by_name["standard", "NFGSM"][2].text == "2F + 2B"
    assert by_name["standard", "TRADES"][3].text == "12"
    assert by_name["standard", "TRADES"][-1].best
    assert not by_name["standard ⚠ checks failed", "Curvature"][-1].best


def test_the_figure_has_a_mark_for_each_training_in_each_panel(tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path))
    ((name, figure),) = tradeoff_figures(tradeoffs(summary, runs), summary.guessing)
    assert name == "tradeoff"
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert len(panels) == 2 * len(EPSILONS)
    for panel in panels:
        assert len(panel.containers) == len(TRAININGS)
    (steps,) = [line for line in panels[len(EPSILONS) - 1].get_lines() if line.get_label() == "Pareto front"]
    assert steps.get_xdata()[:3] == pytest.approx([1, 2, 12])
    assert steps.get_ydata()[:3] == pytest.approx([0.095, 0.295, 0.495])


def test_trainings_that_differ_in_a_setting_alone_are_told_apart(tmp_path: Path) -> None:
    make(tmp_path)
    for seed in range(SEEDS):
        config = tmp_path / f"standard-NFGSM-{seed}" / "config.yaml"
        other = tmp_path / f"wider-{seed}"
        shutil.copytree(config.parent, other)
        for path, epsilon in ((config, 4), (other / "config.yaml", 8)):
            settings = OmegaConf.load(path)
            settings.objective.epsilon = f"{epsilon}/255"
            OmegaConf.save(settings, path)
    summary, runs = read(tmp_path)
    last = tradeoffs(summary, runs)[-1]
    names = [point.defence for point in last.points]
    assert len({(point.network, point.defence) for point in last.points}) == len(TRAININGS) + 1
    assert "NFGSM (objective.epsilon=4/255)" in names
    assert "NFGSM (objective.epsilon=8/255)" in names
    assert names.count("TRADES") == 2  # of two networks, which no difference need tell apart


def test_augmented_training_of_the_same_cost_is_not_the_standard(tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path))
    last = tradeoffs(summary, runs)[-1]
    plain = last.standard
    costs = {kind: cost._replace(value=1.0) for kind, cost in plain.costs.items()}
    augmented = plain._replace(defence="CrossEntropy + cutout", costs=costs)
    assert replace(last, points=[augmented, *last.points]).standard is plain


def test_a_budget_of_operations_is_kept(tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path))
    last = tradeoffs(summary, runs)[-1]
    flops = last.standard.costs["training_flops"]
    plain, alike, dearer = (
        last.standard._replace(
            network=name,
            costs=last.standard.costs | {"training_flops": flops._replace(value=cost)},
            row=last.standard.row._replace(value=value),
        )
        for name, cost, value in (("standard", 1.0, 0.1), ("alike", 1 + 1e-15, 0.2), ("dearer", 2.04, 0.9))
    )
    answers, _ = tradeoff_tables([replace(last, points=[plain, alike, dearer])], summary.guessing).tables
    said = [row[-1].text.partition(":")[0] for row in answers.rows]
    assert said == ["alike", "alike", "alike", "dearer"]  # for at most 1, 1.5, 2 times the cost, and any


def test_epsilons_at_which_other_networks_were_attacked_stand_in_one_figure(tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path))
    found = tradeoffs(summary, runs)
    few = [  # whose costs have no intervals, as those of one seed
        point._replace(costs={kind: cost._replace(low=np.nan, high=np.nan) for kind, cost in point.costs.items()})
        for point in found[0].points[:2]
    ]
    ((_, figure),) = tradeoff_figures([replace(found[0], points=few), *found[1:]], summary.guessing)
    assert [len(figure.axes[panel].containers) for panel in (0, 1)] == [2, len(TRAININGS)]
    ((start, end),) = figure.axes[0].containers[0][2][0].get_segments()
    assert start[0] == end[0] > 0


def test_the_page_asks_the_question_and_shows_the_figure(browser: Browser, tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path / "runs"))
    tables = [tradeoff_tables(tradeoffs(summary, runs), summary.guessing)]
    write_page(tmp_path / "report.html", runs, frame_of(runs), summary, tables)
    with browser.new_context(offline=True) as context:
        opened = Opened(context, tmp_path / "report.html")
        section = opened.page.locator("#price")
        assert "at most x times the cost of standard training?" in section.locator("h2").inner_text()
        assert opened.page.evaluate("document.querySelector('#price img').naturalWidth") > 300
        assert opened.texts(tables[0].tables[0].title, "cost")[-1] == "any cost"
        assert opened.messages == []


def test_seconds_of_different_hardware_are_not_compared(tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path, hardware={"TRADES": "another"}))
    found = tradeoffs(summary, runs)
    assert found[-1].kinds == ["training_flops"]
    assert any("different hardware" in note for note in tradeoff_tables(found, summary.guessing).tables[0].notes)


def test_without_costs_nothing_is_compared(tmp_path: Path) -> None:
    summary, runs = read(make(tmp_path, training_flops=None, training_seconds=None))
    assert tradeoffs(summary, runs) == []


def test_a_defence_is_named_by_objective_augmentation_and_average() -> None:
    inner = {"_target_": OBJECTIVES + "TRADES"}
    training = {"objective": {"_target_": OBJECTIVES + "AWP", "around": inner}, "averaging": {"_target_": "x"}}
    assert defence(training) == "AWP around TRADES + averaged weights"
    assert defence({}) == "training"
