from dataclasses import replace
from pathlib import Path

import pytest

from symmetry_robustness.app.report import main
from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.load import find_runs

from ..reporting.made import CIFAR, draw_broken_at, make_report, make_run


def test_all_tables_are_written_and_what_is_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("standard", "cascaded")):
        make_run(tmp_path / "runs" / name, make_report(draw_broken_at(40, number)), name=name)
    (make_run(tmp_path / "runs" / "unfinished") / "summary.json").unlink()
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    names = {path.name for path in (tmp_path / "report" / "tables").iterdir()}
    kinds = ("accuracy", "leaders", "measures", "costs", "claims", "runs")
    assert names == {f"{kind}.{form}" for kind in kinds for form in ("md", "tex", "csv", "parquet")}
    said = capsys.readouterr()
    assert said.err == f"left out: {tmp_path}/runs/unfinished: unfinished\n"
    assert "points more than" in said.out


def test_protocols_that_the_terminal_leaves_out_are_where_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make_report(draw_broken_at(20, 0))
    run = make_run(tmp_path / "run", report)
    for seed in range(1, 6):
        replace(report, settings=report.settings | {"seed": seed}).save(run / "robustness", f"other{seed}")
    assert main([str(run), "--output", str(tmp_path / "report")]) == 0
    assert "1 more protocol or data set is on the page" in capsys.readouterr().out
    assert "other5" in (tmp_path / "report" / "report.html").read_text()


def test_claims_are_left_out_where_the_paper_claims_nothing(tmp_path: Path) -> None:
    shapes = {"_target_": "symmetry_robustness.data.ShapesDataModule"}
    for name, data in (("shapes", shapes), ("cifar", CIFAR)):
        make_run(tmp_path / name, make_report(draw_broken_at(20, 0)), data=data)
        assert main([str(tmp_path / name), "--output", str(tmp_path / "report" / name)]) == 0
        claims = (tmp_path / "report" / name / "tables" / "claims.md").is_file()
        assert (claims, "Claims of the paper" in (tmp_path / "report" / name / "report.html").read_text()) == (
            (name == "cifar",) * 2
        )


def test_networks_trained_elsewhere_are_named_once_and_have_no_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", make_report(draw_broken_at(60, 0)))
    data = {"data": {**CIFAR, "seed": 0, "batch_size": 128}}
    make_report(draw_broken_at(60, 1, 9.0), provenance=data).save(tmp_path / "saved", "mine")
    assert main([str(run), str(tmp_path / "saved"), "--output", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert "points more than standard on the same images" in said
    assert "common seeds" not in said
    note = "Trained elsewhere, with settings that are not known here: mine."
    assert (tmp_path / "report" / "tables" / "accuracy.md").read_text().count(note) == 1
    assert (tmp_path / "report" / "report.html").read_text().count(note) == 1


def test_nothing_finished_is_nothing_to_report(tmp_path: Path) -> None:
    (make_run(tmp_path / "run") / "summary.json").unlink()
    with pytest.raises(UserError, match=r"none of the 1 runs or reports found can be used \(1 unfinished\)"):
        main([str(tmp_path), "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("file", "reason"), [("config.yaml", "config.yaml: ParserError"), ("summary.json", "summary.json: JSONDecodeError")]
)
def test_the_damaged_file_is_named(file: str, reason: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_report(draw_broken_at(40, 0)))
    (run / file).write_text("{")
    with pytest.raises(UserError, match=rf"\(1 damaged\); the first is {run}: damaged \({reason}: .+\); finish it"):
        main([str(run), "--output", str(tmp_path / "report")])


@pytest.mark.parametrize("damage", ["test.json", "test.npz"])
def test_a_damaged_saved_report_is_named(damage: str, tmp_path: Path) -> None:
    saved = make_report(draw_broken_at(40, 0)).save(tmp_path, "test")
    (tmp_path / damage).write_bytes(b"")
    for given in (tmp_path, saved):
        with pytest.raises(UserError, match=rf"the first is {saved}: damaged \(report {tmp_path}/test is damaged \("):
            main([str(given), "--output", str(tmp_path / "report")])


def test_evaluations_moved_without_their_run_are_found(tmp_path: Path) -> None:
    report = make_report(draw_broken_at(40, 0))
    for name in ("mine", "theirs"):
        report.save(tmp_path / "moved" / name / "robustness", "test")
        report.save(tmp_path / "moved" / name / "robustness", "train-epoch=003")
        replace(report, settings=report.settings | {"judge": "returned"}).save(
            tmp_path / "moved" / name / "robustness", "released"
        )
    for given, names in (("mine", {"mine"}), ("mine/robustness", {"mine"}), ("", {"mine", "theirs"})):
        runs, problems = find_runs([tmp_path / "moved" / given])
        assert ({run.name for run in runs}, problems) == (names, [])
        assert all(set(run.evaluations) == {"test", "released"} for run in runs)
    assert main([str(tmp_path / "moved" / "mine"), "--output", str(tmp_path / "report")]) == 0
    assert "| mine |" in (tmp_path / "report" / "tables" / "accuracy.md").read_text()


@pytest.mark.parametrize("output", ["file", "file/below", "taken"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(output: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "tables").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"--output {tmp_path / output} cannot be written \(.+\); give another"):
        main([str(tmp_path / "nothing"), "--output", str(tmp_path / output)])
    assert sorted(tmp_path.rglob("*")) == before


def test_the_answer_comes_first_and_all_fits_on_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, strength in (("strong", 9.0), ("weak", 0.1)):
        for seed in range(6):
            report = make_report(draw_broken_at(400, seed, strength))
            make_run(tmp_path / "runs" / f"{name}{seed}", report, name=name, seed=seed)
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cifar10, 400 test images, protocol test (sound), the worst of 2 attacks, ε = ")
    assert lines[1].strip().startswith("strong has ")
    assert "better than every other network (p = " in lines[1]
    assert len(lines) <= 24


def test_reports_saved_from_python_are_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("mine", "theirs")):
        make_report(draw_broken_at(40, number)).save(tmp_path / "saved", name)
    assert main([str(tmp_path / "saved"), "--output", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "tables" / "accuracy.md").read_text()
    assert "| mine |" in text
    assert "| theirs |" in text
    assert "points more than" in capsys.readouterr().out
    assert main([str(tmp_path / "saved" / "mine.json"), "--output", str(tmp_path / "one")]) == 0
    assert "and is alone" in capsys.readouterr().out
