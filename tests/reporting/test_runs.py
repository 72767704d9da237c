import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.figures.examples import attack_rows
from symmetry_robustness.reporting.load import find_runs
from symmetry_robustness.reporting.tables import overview, run_row

from .made import ALL_BROKEN_AT, draw_broken_at, make_report, make_run


def test_a_curve_and_a_row_follow_from_the_images(tmp_path: Path) -> None:
    measured = {"removal": {"value": np.arange(10) / 10, "indices": np.arange(10)}}
    report = make_report({"pgd": ALL_BROKEN_AT}, measures=measured, clever=np.full(10, 0.25))
    (run,), problems = find_runs([make_run(tmp_path / "run", report, summary={"clever": 0.25})])
    assert problems == []
    row = run_row(run)
    assert row["clean, whole test set %"] == "85.0"
    assert row["images attacked"] == "10"
    assert row["pgd 8/255 %"] == "40.0 ± 15.5"
    assert row["CLEVER"] == "0.25 ± 0"
    assert row["removal"] == "0.45 ± 0.096"
    assert row["checks"] == "passed"
    assert [cell.text for cell in overview([run]).rows[0]] == list(row.values())


def test_examples_are_those_of_the_lowest_numbers_with_the_strongest_attack_first(tmp_path: Path) -> None:
    numbers = np.array([7, 3, 9, 1])
    broken_at = {
        "fgsm": np.array([np.inf, 4 / 255, np.inf, np.inf]),
        "pgd": np.array([8 / 255, 2 / 255, np.inf, np.inf]),
    }
    kept = {
        name: np.full((2, 3, 4, 4), shade, np.float32) for name, shade in {"clean": 0, "fgsm": 0.1, "pgd": 1}.items()
    }
    report = make_report(broken_at, indices=numbers, examples=kept)
    (run,), _ = find_runs([make_run(tmp_path / "run", report)])
    rows = attack_rows(run.evaluations["test"].whole())
    assert [title.partition("\n")[0] for title in rows] == ["clean", "pgd", "pgd", "fgsm", "fgsm"]
    pictures, captions = rows["pgd"]
    np.testing.assert_array_equal(pictures, kept["pgd"])
    assert captions == ["withstood", "ε = 2/255"]


def test_reports_in_a_folder_and_in_its_robustness_folder_are_all_read(tmp_path: Path) -> None:
    for number, folder in enumerate((tmp_path, tmp_path / "robustness")):
        make_report(draw_broken_at(20, number)).save(folder, "mine")
    runs, problems = find_runs([tmp_path])
    assert [run.directory for run in runs] == [tmp_path / "mine.json", tmp_path / "robustness"]
    assert problems == []


def test_a_checkpoint_that_was_moved_is_the_network_it_came_from(tmp_path: Path) -> None:
    """Evaluated elsewhere, on the same images it is repeated, under another protocol it is the run's."""
    report = make_report(draw_broken_at(20, 0))
    run = make_run(tmp_path / "run", report)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    origin = {"checkpoint": hashlib.sha256(b"weights").hexdigest(), "file": "moved.ckpt", "data": data_of(run)}
    same = replace(report, provenance=origin)
    other = replace(same, settings=report.settings | {"seed": 1})
    same.save(tmp_path / "away" / "robustness", "test")
    other.save(tmp_path / "away" / "robustness", "other")
    (found,), problems = find_runs([run, tmp_path / "away"])
    assert [(e.name, e.weights) for e in found.evaluations.values()] == [("test", "last.ckpt"), ("other", "last.ckpt")]
    (problem,) = problems
    assert (problem.path, problem.kind) == (str(tmp_path / "away" / "robustness" / "test.json"), "repeated")
    replace(other, provenance=origin | {"file": "copy.ckpt"}).save(tmp_path / "copy" / "robustness", "other")
    (alone,), (problem,) = find_runs([tmp_path / "away", tmp_path / "copy"])
    assert (alone.name, len(alone.evaluations), problem.kind) == ("away", 2, "repeated")


def test_reports_that_state_their_training_are_called_as_it(tmp_path: Path) -> None:
    stated = {"name": "cascaded", "title": "cascaded, 10 layers", "seed": 3}
    for number, trained in enumerate((stated, {"name": ["no"], "seed": "3"}, "no")):
        report = make_report(draw_broken_at(20, number), provenance={"trained": trained})
        report.save(tmp_path / f"away{number}" / "robustness", "test")
    first, *others = find_runs([tmp_path / f"away{number}" for number in range(3)])[0]
    assert (first.name, first.title, first.seed) == ("cascaded", "cascaded, 10 layers", 3)
    assert [(run.name, run.seed) for run in others] == [("away1", 0), ("away2", 0)]


def data_of(run: Path) -> Any:
    return yaml.safe_load((run / "config.yaml").read_text())["data"]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"value": np.ones((8, 3))}, "measure mine did not return other, which a figure of it needs"),
        ({"other": np.full((8, 3), np.nan)}, "measure mine is NaN for every image"),
        ({"other": np.ones((8, 3))}, None),
    ],
)
def test_what_a_measure_declares_and_lacks_is_said(arrays: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    curve = {"kind": "curve", "x": [0.0, 1.0, 2.0], "y": ["other"], "xlabel": "x", "ylabel": "y"}
    report = make_report(draw_broken_at(8, 0), measures={"mine": {"indices": np.arange(8), **arrays}})
    settings = report.settings | {"measures": {"mine": {"class": "Mine", "plots": [curve]}}}
    run = make_run(tmp_path / "run", replace(report, settings=settings))
    (found,), problems = find_runs([run])
    assert found.evaluations
    where = str(run / "robustness" / "test.json")
    assert problems == ([(where, "incomplete", reason)] if reason else [])


def test_views_are_read_in_the_order_of_the_angle(tmp_path: Path) -> None:
    accuracies = {"test/rotation_90/accuracy": 0.5, "test/rotation_-22.5/accuracy": 0.25, "test/fog_1/accuracy": 0.1}
    (run,), _ = find_runs([make_run(tmp_path / "run", summary={"test_accuracy": accuracies})])
    assert list(run.views("rotation").items()) == [(-22.5, 0.25), (90.0, 0.5)]
    assert run.views("scale") == {}
    assert (run_row(run)["rotation -22.5 %"], run_row(run)["rotation 90 %"]) == ("25.0", "50.0")


def test_every_kind_of_directory_is_told_apart(tmp_path: Path) -> None:
    report = make_report({"pgd": ALL_BROKEN_AT})
    make_run(tmp_path / "good", report)
    make_run(tmp_path / "failed", report, summary={"status": "failed", "error": "no data"})
    make_run(tmp_path / "interrupted", report, summary={"status": "interrupted"})
    (make_run(tmp_path / "unfinished", report) / "summary.json").unlink()
    (make_run(tmp_path / "damaged", report) / "summary.json").write_text('{"status": "do')
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("learning_rate: 0.1\n")
    runs, problems = find_runs([tmp_path])
    assert [run.directory.name for run in runs] == ["good"]
    kinds = ["damaged", "failed", "foreign", "interrupted", "unfinished"]
    assert [(Path(problem.path).name, problem.kind) for problem in problems] == [(kind, kind) for kind in kinds]
    assert str(problems[1]) == f"{tmp_path}/failed: failed (no data)"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "name: [unclosed"),
        ("config.yaml", "[]"),
        ("config.yaml", "a: &x [1]\nb: [*x, *x]\n"),
        ("provenance.json", "nothing"),
        ("summary.json", "[]"),
        ("summary.json", '{"status": "done"}'),
        ("robustness/test.json", "{}"),
        ("robustness/test.json", ""),
        ("robustness/test.npz", "PK"),
        ("robustness/test.npz", None),
    ],
)
def test_damage_of_any_file_leaves_out_that_run_alone(file: str, content: str | None, tmp_path: Path) -> None:
    report = make_report({"pgd": ALL_BROKEN_AT})
    make_run(tmp_path / "good", report)
    path = make_run(tmp_path / "damaged", report) / file
    path.write_text(content) if content is not None else path.unlink()
    runs, (problem,) = find_runs([tmp_path])
    assert [run.directory.name for run in runs] == ["good"]
    assert problem.kind == "damaged"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_report_that_contradicts_its_images_is_damaged(tmp_path: Path) -> None:
    report = make_report({"pgd": ALL_BROKEN_AT})
    summary = report.summary()
    for number, wrong in enumerate(
        ({"images": 11}, {"summary": summary | {f"robust_accuracy.pgd.linf_{2 / 255:.4g}": 0.8}})
    ):
        change(make_run(tmp_path / str(number), report) / "robustness" / "test.json", **wrong)
    runs, problems = find_runs([tmp_path])
    assert (runs, [problem.kind for problem in problems]) == ([], ["damaged", "damaged"])
    assert "its images 0.7" in problems[1].reason


def test_a_damaged_later_evaluation_is_left_out_alone(tmp_path: Path) -> None:
    report = make_report({"pgd": ALL_BROKEN_AT})
    run = make_run(tmp_path / "run", report)
    report.save(run / "robustness", "paper")
    report.save(run / "robustness", "strong").write_text("{")
    report.save(run / "robustness", "validation-epoch=003")
    (found,), (problem,) = find_runs([run])
    assert set(found.evaluations) == {"test", "paper"}
    assert problem.path.endswith("robustness/strong.json")


def test_what_lies_inside_of_a_run_is_no_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "wandb" / "files").mkdir(parents=True)
    (run / "wandb" / "files" / "config.yaml").write_text("wandb_version: 1\n")
    assert find_runs([tmp_path])[1] == []


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "sweep" / "run")
    (tmp_path / "link").symlink_to(run)
    assert len(find_runs([run, run.parent, tmp_path / "link"])[0]) == 1


def test_paths_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(UserError, match="holds no run"):
        find_runs([tmp_path])


@pytest.mark.parametrize("each", [False, True])
def test_correctness_is_that_of_the_report(each: bool, tmp_path: Path) -> None:
    """Each epsilon may be judged on its own."""
    epsilons = tuple(np.arange(1, 10) / 255)
    generator = np.random.default_rng(0)
    broken_at = {
        "fgsm": generator.choice([0.0, *epsilons, np.inf], 50),
        "pgd": generator.choice([*epsilons, np.inf], 50),
    }
    broken_at["pgd"][broken_at["fgsm"] == 0] = 0
    # A clean image that is misclassified may be classified correctly under every attack, and counts as broken.
    fooled = {"pgd": generator.random((50, 9)) < 0.5, **({"fgsm": generator.random((50, 9)) < 0.5} if each else {})}
    report = make_report(broken_at, epsilons=epsilons, fooled=fooled)
    (run,), _ = find_runs([make_run(tmp_path / "run", report)])
    brief = run.evaluations["test"].report
    for epsilon in epsilons:
        for attack in broken_at:
            np.testing.assert_array_equal(brief.correct(attack, epsilon), report.correct(attack, epsilon))
        np.testing.assert_array_equal(brief.correct("worst_case", epsilon), report.correct("worst_case", epsilon))


def test_a_thousand_runs_are_read_in_seconds(tmp_path: Path) -> None:
    """A hundred here; time grows with their number."""
    for number in range(100):
        make_run(tmp_path / str(number), make_report(draw_broken_at(1000, number)), seed=number)
    start = time.process_time()
    runs, _ = find_runs([tmp_path])
    assert len(runs) == 100
    assert time.process_time() - start < 3, "much more than 10 ms for each run"
