import numpy as np
import pytest
import torch
from torch import nn

from symmetry_robustness.robustness import (
    EvaluationProtocol,
    GradientNorm,
    RemovalTolerance,
    RobustnessReport,
    Symmetry,
    evaluate_robustness,
)
from symmetry_robustness.robustness.measures.pixel_removal import removal_ranks, remove
from symmetry_robustness.training.pictures import measure_figures


@pytest.fixture(scope="module")
def report() -> RobustnessReport:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    images, labels = torch.rand(12, 3, 8, 8), torch.randint(3, (12,))
    measures = {
        "removal": RemovalTolerance(levels=8, images=6),
        "turns": Symmetry(),
        "full": Symmetry(angles=[60, 90, 240], scales=[0.5, 0.8, 1.5], layers=True),
        "steepness": GradientNorm(),
    }
    numbers = torch.randperm(12) + 40
    protocol = EvaluationProtocol(measures=measures, keep_examples=3, seed=5)  # type: ignore[arg-type]
    return evaluate_robustness(network, images, labels, protocol, indices=numbers)


def test_every_measure_that_can_be_shown_is_shown(report: RobustnessReport) -> None:
    assert set(measure_figures(report)) == {"removal", "full-circle", "full-scales", "full-error"}


def test_the_removal_panel_zeroes_exactly_the_share_of_the_caption(report: RobustnessReport) -> None:
    rows = measure_figures(report)["removal"].axes
    captions = [label.get_text() for label in rows[1].get_xticklabels()]
    tolerances = dict(zip(report.measures["removal"]["indices"], report.measures["removal"]["value"], strict=True))
    # They are the images with the lowest numbers, each with its own tolerance and order.
    shares = [tolerances[number] for number in (40, 41, 42)]
    assert captions == [f"{100 * share:.3g} % removed" for share in shares]
    clean, left = (np.asarray(row.get_images()[0].get_array()) for row in rows)
    for place, share in enumerate(shares):
        old, new = (picture[:, 9 * place : 9 * place + 8] for picture in (clean, left))  # 8 pixels and a gap
        gone = (new == 0) & (old != 0)
        assert gone.mean() == pytest.approx(share, abs=1e-3)
        np.testing.assert_array_equal(new[~gone], old[~gone])
    images = torch.from_numpy(report.examples["clean"])
    expected = remove(images, torch.tensor(shares, dtype=torch.float64), removal_ranks(images, [40, 41, 42], seed=5))
    np.testing.assert_array_equal(left[:, 9:17], expected[1].permute(1, 2, 0).numpy())


def test_the_circle_is_closed_and_begins_with_the_disc_as_it_is(report: RobustnessReport) -> None:
    (panel,) = measure_figures(report)["full-circle"].axes
    accuracy, same = panel.get_lines()
    np.testing.assert_allclose(np.degrees(np.asarray(accuracy.get_xdata())), [0, 60, 90, 240, 360])
    found = report.measures["full"]
    expected = [found["disc.correct"].mean(), *found["rotation.correct"].mean(0), found["disc.correct"].mean()]
    np.testing.assert_allclose(np.asarray(accuracy.get_ydata()), expected)
    assert np.asarray(same.get_ydata())[0] == 1


def test_errors_stand_beside_their_floor(report: RobustnessReport) -> None:
    rotation, scale, layers = measure_figures(report)["full-error"].axes
    found = report.measures["full"]
    for panel, family in ((rotation, "rotation"), (scale, "scale")):
        error, floor = (np.asarray(line.get_ydata()) for line in panel.get_lines())
        np.testing.assert_allclose(error, found[f"{family}.error.logits"].mean(0))
        np.testing.assert_allclose(floor, np.maximum(found[f"{family}.floor.logits"].mean(0), 1e-6))
    assert [label.get_text() for label in layers.get_xticklabels()] == ["0", "logits"]
    turn = np.asarray(layers.get_lines()[0].get_ydata())
    np.testing.assert_allclose(turn, [found[f"turn.error.{place}"].mean() for place in ("0", "logits")])


def test_what_does_not_apply_leaves_a_gap_and_no_warning(report: RobustnessReport) -> None:
    found = dict(report.measures["full"])
    found["rotation.error.0"] = np.full_like(found["rotation.error.0"], np.nan)
    unknown = RobustnessReport(**{**report.__dict__, "measures": {"full": found}})
    (*_, layers) = measure_figures(unknown)["full-error"].axes
    labels = [line.get_label() for line in layers.get_lines()]
    assert labels == ["turn", "rotation", "rotation, there and back", "scale", "scale, there and back"]
    assert len(np.asarray(layers.get_lines()[1].get_ydata())) == 1
