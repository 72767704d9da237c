"""Bounds from both sides in a report: counted by hand from the arrays of a saved evaluation."""

from pathlib import Path

import numpy as np
import pytest

from symmetry_robustness.reporting.load import find_runs
from symmetry_robustness.reporting.sandwich import sandwich_figures, sandwich_tables, sandwiches
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness import EvaluationProtocol

SETTINGS = {
    "certified": {
        "class": "C",
        "norm": "l2",
        "images": 6,
        "means": ["radius"],
        "lower_bound": "radius",
        "proven": True,
    },
    "score": {"class": "Clever", "title": "CLEVER", "norm": "l2", "images": 5, "lower_bound": "value"},
    "distance": {"class": "MinimalDistance", "norm": "l2", "images": 6, "upper_bound": "distance"},
    "other": {"class": "MinimalDistance", "norm": "linf", "images": 6, "upper_bound": "distance"},
    "smoothing": {"class": "RandomizedSmoothing", "images": 6},
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Six images: one misclassified, one never broken, one without CLEVER."""
    rows, labels = np.arange(6), np.array([0, 1, 0, 1, 0, 1])
    predictions = np.array([0, 1, 0, 1, 0, 0])
    saturated = np.array([False, False, False, True, False, False])
    measures = {
        "certified": {
            "indices": rows,
            "radius": np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.0]),
            "method": np.full(6, "crown"),
        },
        "score": {"indices": rows[:5], "value": np.array([0.5, 0.1, 0.9, 9.0, 0.6])},
        "distance": {"indices": rows, "distance": np.array([0.4, 0.5, 1.0, 5.0, 0.45, 0.0]), "saturated": saturated},
        "other": {"indices": rows, "distance": np.full(6, 1e-9), "saturated": saturated},
        "smoothing": {"indices": rows, "radius": np.full(6, 7.0)},
    }
    settings = EvaluationProtocol(epsilons=()).describe() | {"measures": SETTINGS}
    report = RobustnessReport("linf", (), rows, labels, predictions, {}, {}, measures=measures, settings=settings)
    report.save(tmp_path, "one")
    return tmp_path


def test_shares_are_those_of_the_images_that_have_what_is_compared(saved: Path, tmp_path: Path) -> None:
    runs, problems = find_runs([saved])
    assert not problems
    (found,) = sandwiches(runs)
    row = found.row()
    assert (row["images"], row["method"]) == (5, "crown")
    assert row["certified"] == pytest.approx(0.3)
    assert row["CLEVER"] == pytest.approx(0.6)
    assert row["distance found"] == pytest.approx(0.5)
    assert row["CLEVER refuted %"] == pytest.approx(100 * 2 / 4)  # of the four that were broken
    assert row["CLEVER too pessimistic %"] == pytest.approx(100 * 1 / 5)
    assert row["certificate beyond distance"] == 1
    (table,) = sandwich_tables([found]).tables
    assert "ℓ2" in table.title
    notes: list[str] = []
    ((name, figure),) = sandwich_figures([found], notes)
    assert name == "sandwich-l2"
    assert not notes
    lines = {line.get_label(): len(line.get_ydata()) for line in figure.axes[0].get_lines()}
    assert lines == {"distance found": 4, "CLEVER (estimate)": 5, "certified radius": 5}


def test_nothing_is_drawn_without_a_proof(saved: Path) -> None:
    runs, _ = find_runs([saved])
    (evaluation,) = runs[0].evaluations.values()
    settings = evaluation.report.settings["measures"]
    settings["certified"].pop("proven")
    assert sandwiches(runs) == []
