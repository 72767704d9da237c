"""Figures of measures, from reports of small networks."""

import numpy as np
import pytest
import torch
from torch import nn

from symmetry_robustness.reporting.figures.from_report import (
    comparison_figures,
    measure_charts,
    measure_figures,
    report_figures,
)
from symmetry_robustness.results.plots import Curve, Distribution, Panel, plots_to_plain
from symmetry_robustness.robustness import (
    EquivarianceError,
    EvaluationProtocol,
    GradientNorm,
    RemovalTolerance,
    RobustnessReport,
    evaluate_robustness,
)

from .made import EPSILONS, SETTINGS, draw_broken_at, make_report


@pytest.fixture(scope="module")
def report() -> RobustnessReport:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    images, labels = torch.rand(12, 3, 8, 8), torch.randint(3, (12,))
    measures = {
        "removal": RemovalTolerance(levels=8, images=6),
        "turns": EquivarianceError(),
        "full": EquivarianceError(angles=[60, 90, 240], scales=[0.5, 0.8, 1.5], layers=True),
        "steepness": GradientNorm(),
    }
    numbers = torch.randperm(12) + 40
    protocol = EvaluationProtocol(measures=measures, keep_examples=3, seed=5)  # type: ignore[arg-type]
    return evaluate_robustness(network, images, labels, protocol, indices=numbers)


def test_every_plot_that_a_measure_declares_is_drawn(report: RobustnessReport) -> None:
    assert set(measure_figures(report)) == {"removal-examples", "full-circle", "full-curves"}
    compared = comparison_figures({"one": report, "other": report})
    assert set(compared) == {"full-circle", "distributions"}
    assert [panel.get_xlabel().partition(":")[0] for panel in compared["distributions"].axes] == [
        "removal",
        "steepness",
    ]


def test_the_removal_panel_zeroes_exactly_the_share_of_the_caption(report: RobustnessReport) -> None:
    rows = measure_figures(report)["removal-examples"].axes
    captions = [label.get_text() for label in rows[1].get_xticklabels()]
    tolerances = dict(zip(report.measures["removal"]["indices"], report.measures["removal"]["value"], strict=True))
    # They are the images with the lowest numbers, each with its own tolerance.
    shares = [tolerances[number] for number in (40, 41, 42)]
    assert captions == [f"removed {share:.3g}" for share in shares]
    clean, left = (np.asarray(row.get_images()[0].get_array()) for row in rows)
    for place, share in enumerate(shares):
        old, new = (picture[:, 9 * place : 9 * place + 8] for picture in (clean, left))  # 8 pixels and a gap
        gone = (new == 0) & (old != 0)
        assert gone.mean() == pytest.approx(share, abs=1e-3)
        np.testing.assert_array_equal(new[~gone], old[~gone])


def test_the_circle_is_closed_and_begins_with_the_disc_as_it_is(report: RobustnessReport) -> None:
    (panel,) = measure_figures(report)["full-circle"].axes
    accuracy, same = panel.get_lines()
    np.testing.assert_allclose(np.degrees(np.asarray(accuracy.get_xdata())), [0, 60, 90, 240, 360])
    found = report.measures["full"]
    expected = [found["disc.correct"].mean(), *found["rotation.correct"].mean(0), found["disc.correct"].mean()]
    np.testing.assert_allclose(np.asarray(accuracy.get_ydata()), expected)
    np.testing.assert_allclose(np.asarray(same.get_ydata())[:-1], found["rotation.consistent"].mean(0))


def test_errors_stand_beside_their_floor(report: RobustnessReport) -> None:
    figure, found = measure_figures(report)["full-curves"], report.measures["full"]
    panels = {(panel.get_xlabel(), panel.get_ylabel()): panel for panel in figure.axes}
    for family, label in (("rotation", "angle (degrees)"), ("scale", "scale")):
        error, floor = (np.asarray(line.get_ydata()) for line in panels[label, "relative error"].get_lines())
        np.testing.assert_allclose(error, np.maximum(found[f"{family}.error.logits"].mean(0), 1e-6))
        np.testing.assert_allclose(floor, np.maximum(found[f"{family}.floor.logits"].mean(0), 1e-6))
    lines = {
        line.get_label(): line for line in panels["quarter turn (degrees)", "relative error of a layer"].get_lines()
    }
    turned = np.asarray(lines["logits"].get_ydata())
    np.testing.assert_allclose(turned, found["turn.error.logits"].mean(0), rtol=1e-6)


def test_more_arrays_than_lines_can_be_told_apart_stand_side_by_side(report: RobustnessReport) -> None:
    found = dict(report.measures["full"])
    names = [f"layer{number}" for number in range(9)]
    found |= {f"rotation.error.{name}": np.full((12, 3), 0.01 * 2**at) for at, name in enumerate(names)}
    many = RobustnessReport(**{**report.__dict__, "measures": {"full": found}})
    (panel,) = measure_figures(many)["full-arrays"].axes
    labels = [label.get_text() for label in panel.get_xticklabels()]
    values = dict(zip(labels, np.asarray(panel.get_lines()[0].get_ydata()), strict=True))
    assert [values[name] for name in names] == pytest.approx([0.01 * 2**at for at in range(9)])


def test_nothing_but_nan_leaves_a_gap_and_no_warning(report: RobustnessReport) -> None:
    found = dict(report.measures["full"])
    found["rotation.error.logits"] = np.full_like(found["rotation.error.logits"], np.nan)
    unknown = RobustnessReport(**{**report.__dict__, "measures": {"full": found}})
    panel = next(p for p in measure_figures(unknown)["full-curves"].axes if p.get_ylabel() == "relative error")
    assert [len(np.asarray(line.get_ydata())) for line in panel.get_lines()] == [0, 3]


def test_curves_over_epsilon_begin_with_the_clean_accuracy() -> None:
    report = make_report(draw_broken_at(40, 0), examples={})
    figures = report_figures(report)
    assert set(figures) == {"curves"}
    assert [panel.get_title() for panel in figures["curves"].axes] == ["fgsm", "pgd"]
    for panel, attack in zip(figures["curves"].axes, ("fgsm", "pgd"), strict=True):
        (line,) = panel.get_lines()
        np.testing.assert_allclose(np.asarray(line.get_xdata()), [0, *EPSILONS])
        expected = [report.clean_accuracy, *(report.accuracy(attack, epsilon).value for epsilon in EPSILONS)]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)


def test_plots_of_arrays_that_are_missing_are_left_out() -> None:
    plots = [Curve((0.0, 1.0), ("gone",), "x", "y"), Curve((0.0, 1.0, 2.0), ("value",), "x", "y")]
    plots += [Distribution("gone", "gone"), Panel("gone", "value", "gone")]  # type: ignore[list-item]
    settings = {"measures": {"mine": {"plots": plots_to_plain(plots)}}}
    measures = {"mine": {"value": np.arange(40.0), "indices": np.arange(40)}}
    report = make_report(draw_broken_at(40, 0), settings=SETTINGS | settings, measures=measures)
    assert measure_figures(report) == {}
    assert comparison_figures({"one": report, "other": make_report(draw_broken_at(40, 0))}) == {}


def test_a_distribution_is_the_share_of_images_at_or_above_each_value(report: RobustnessReport) -> None:
    (chart,) = measure_charts(report, "steepness")
    (line,) = chart.lines.values()
    values = report.measures["steepness"]["value"]
    for position, share in zip(line.positions[:-1], line.values[:-1], strict=True):
        assert share == pytest.approx((values >= position).mean())
    assert (line.positions[-1], line.values[-1]) == (values.max(), 0)
