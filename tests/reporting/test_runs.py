import json
from pathlib import Path

import numpy as np
import pytest

from symmetry_robustness.app.report import labels
from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting import tables
from symmetry_robustness.reporting.runs import find_runs

BROKEN_AT = np.array([0.0, 2 / 255, 2 / 255, 4 / 255, 8 / 255, 8 / 255, np.inf, np.inf, np.inf, np.inf])
EPSILONS = [2 / 255, 4 / 255, 8 / 255]


def write_run(directory: Path, status: str = "done") -> Path:
    """A run of ten images whose numbers follow from BROKEN_AT."""
    (directory / "robustness").mkdir(parents=True)
    (directory / "config.yaml").write_text("seed: 0\n")
    shares = {f"robust_accuracy.pgd.linf_{e:.4g}": float((e < BROKEN_AT).mean()) for e in EPSILONS}
    summary = {
        "status": status,
        "name": "standard",
        "seed": 0,
        "parameters": 1234,
        "clean_accuracy": 0.85,
        "clever": 0.25,
        "robustness_images": 10,
    }
    (directory / "summary.json").write_text(json.dumps(summary | shares))
    report = {
        "norm": "linf",
        "epsilons": EPSILONS,
        "images": 10,
        "attacks": ["pgd"],
        "summary": {"clean_accuracy": 0.9, **shares},
        "measures": {
            "removal": {"value": {"value": 0.1234, "standard_error": 0.0567, "images": 10}},
            "symmetry": {"turn.gradient_error": {"value": 0.5, "standard_error": None, "images": 1}},
        },
        "checks": [
            {"name": "a", "status": "passed", "evidence": ""},
            {"name": "b", "status": "failed", "evidence": ""},
        ],
    }
    (directory / "robustness" / "test.json").write_text(json.dumps(report))
    np.savez(directory / "robustness" / "test.npz", **{"indices": np.arange(10), "broken_at.pgd": BROKEN_AT})
    return directory


def test_a_curve_and_a_row_follow_from_the_images(tmp_path: Path) -> None:
    (run,), problems = find_runs([write_run(tmp_path / "run")])
    assert problems == []
    np.testing.assert_allclose(run.curve("pgd").accuracies, [0.9, 0.7, 0.6, 0.4])
    np.testing.assert_allclose(run.curve("pgd").standard_errors[3], np.sqrt(0.4 * 0.6 / 10))
    (row,) = tables.result_rows([run])
    assert row["clean, whole test set %"] == "85.0"
    assert row["images attacked"] == "10"
    assert row["pgd 8/255 %"] == "40.0 ± 15.5"
    assert row["CLEVER"] == "0.250"
    assert row["removal"] == "0.123 ± 0.057"
    assert row["symmetry turn gradient error"] == "0.5"
    assert row["checks"] == "1 failed"


def test_views_are_read_in_the_order_of_the_angle(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "summary.json"
    accuracies = {"test/rotation_90/accuracy": 0.5, "test/rotation_-22.5/accuracy": 0.25, "test/fog_1/accuracy": 0.1}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_accuracy": accuracies}))
    (run,), _ = find_runs([tmp_path])
    assert list(run.views("rotation").items()) == [(-22.5, 0.25), (90.0, 0.5)]
    assert run.views("scale") == {}
    (row,) = tables.result_rows([run])
    assert (row["rotation -22.5 %"], row["rotation 90 %"]) == ("25.0", "50.0")


def test_unfinished_failed_and_damaged_runs_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "failed", status="failed")
    (write_run(tmp_path / "unfinished") / "summary.json").unlink()
    (write_run(tmp_path / "damaged") / "summary.json").write_text('{"status": "do')
    runs, problems = find_runs([tmp_path])
    assert [run.directory.name for run in runs] == ["good"]
    reasons = [problem.removeprefix(f"{tmp_path}/").split()[:2] for problem in problems]
    assert reasons == [["damaged:", "damaged"], ["failed:", "failed:"], ["unfinished:", "unfinished"]]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "[]"),
        ("summary.json", '{"status": "done"}'),
        ("robustness/test.json", "{}"),
        ("robustness/test.json", ""),
        ("robustness/test.npz", "PK"),
    ],
)
def test_damage_of_any_file_leaves_out_that_run_alone(file: str, content: str, tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    (write_run(tmp_path / "damaged") / file).write_text(content)
    runs, (problem,) = find_runs([tmp_path])
    assert [run.directory.name for run in runs] == ["good"]
    assert "damaged (" in problem


def test_labels_tell_runs_apart_by_as_little_as_is_needed(tmp_path: Path) -> None:
    one, two = (find_runs([write_run(tmp_path / sweep / "0_standard_seed=0")])[0][0] for sweep in "ab")
    assert labels([one]) == ["standard"]
    assert len(set(labels([one, two]))) == 2


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sweep" / "run")
    assert len(find_runs([run, run.parent])[0]) == 1


def test_paths_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a directory"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(UserError, match="holds no run"):
        find_runs([tmp_path])


def test_tables_say_the_same_in_every_form(tmp_path: Path) -> None:
    rows = tables.result_rows(find_runs([write_run(tmp_path / "run")])[0])
    assert "40.0 ± 15.5" in tables.markdown(rows)
    assert "40.0 ± 15.5" in tables.comma_separated(rows)
    names = tables.columns(rows)
    assert tables.markdown(rows).count("|") == 3 * (len(names) + 1)
