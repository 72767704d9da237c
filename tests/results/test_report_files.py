"""The files of a report: format 1 read as format 2, and damage that is named instead of believed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmetry_robustness.errors import UserError
from symmetry_robustness.results import RobustnessReport
from symmetry_robustness.results.report_files import read_content

from .test_report import make

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RESULTS = sorted(EXPERIMENTS.glob("*/runs/*/robustness/*.json"))
OLD = [path for path in RESULTS if json.loads(path.read_text())["format"] == 1]


@pytest.fixture(scope="module")
def report() -> RobustnessReport:
    return make(range(30))


@pytest.mark.parametrize("path", OLD[::4], ids=lambda path: path.parents[1].name)
def test_results_of_earlier_versions_are_read_with_their_numbers(path: Path) -> None:
    content = json.loads(path.read_text())
    report = RobustnessReport.load(path)
    assert {name: value for name, value in report.summary().items() if value == value} == pytest.approx(
        {name: value for name, value in content["summary"].items() if value is not None}
    )
    with np.load(path.with_suffix(".npz")) as arrays:
        for attack in content["attacks"]:
            np.testing.assert_array_equal(report.minimal_epsilon[attack], arrays[f"broken_at.{attack}"])
        if content["clever"]:
            np.testing.assert_array_equal(report.measures["clever"]["indices"], arrays["clever_indices"])
            np.testing.assert_array_equal(report.measures["clever"]["value"], arrays["clever.value"])
            assert report.settings["measures"]["clever"]["norm"] == content["clever"]["norm"]
    assert "clever" not in report.settings


def test_an_earlier_result_is_the_same_when_it_is_saved_anew(tmp_path: Path) -> None:
    first = RobustnessReport.load(OLD[0])
    second = RobustnessReport.load(first.save(tmp_path, "new"))
    assert json.loads((tmp_path / "new.json").read_text())["format"] == 2
    assert (second.summary(), second.checks, second.settings) == (first.summary(), first.checks, first.settings)
    assert read_content(tmp_path / "new")["summary"] == first.summary()


@pytest.mark.parametrize("damage", ["missing", "truncated", "no json", "format", "lacking", "other numbers", "fewer"])
def test_damaged_files_are_named(report: RobustnessReport, tmp_path: Path, damage: str) -> None:
    path = report.save(tmp_path, "r")
    arrays, content = path.with_suffix(".npz"), json.loads(path.read_text())
    if damage == "missing":
        arrays.unlink()
    elif damage == "truncated":
        arrays.write_bytes(arrays.read_bytes()[:200])
    elif damage == "no json":
        path.write_text("{")
    elif damage == "format":
        path.write_text(json.dumps(content | {"format": 99}))
    elif damage == "lacking":
        del content["checks"]
        path.write_text(json.dumps(content))
    elif damage == "other numbers":
        content["summary"]["worst_case.linf_0.01"] += 0.01
        path.write_text(json.dumps(content))
    else:
        make(range(29)).save(tmp_path, "other")
        (tmp_path / "other.npz").rename(arrays)
    with pytest.raises(UserError, match="evaluate again") as caught:
        RobustnessReport.load(path)
    assert "\n" not in str(caught.value)


def test_any_byte_that_changed_is_damage_or_nothing(report: RobustnessReport, tmp_path: Path) -> None:
    arrays = report.save(tmp_path, "r").with_suffix(".npz")
    content, random = arrays.read_bytes(), np.random.default_rng(0)
    refused = 0
    for position in random.choice(len(content), 300):
        changed = bytearray(content)
        changed[position] ^= 1 << int(random.integers(8))
        arrays.write_bytes(changed)
        try:
            RobustnessReport.load(arrays)
        except UserError:
            refused += 1
    assert refused > 100


def test_failed_write_leaves_the_old_report(report: RobustnessReport, tmp_path: Path) -> None:
    path = report.save(tmp_path, "r")
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:

        def fail(*arguments: Any, **settings: Any) -> str:
            raise OSError("full")

        patch.setattr("json.dumps", fail)
        with pytest.raises(OSError, match="full"):
            report.save(tmp_path, "r")
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_of_the_present_format_gains_what_its_build_left_unsaid(tmp_path: Path) -> None:
    report = next(report for report in map(RobustnessReport.load, OLD) if report.headlines)
    path = report.save(tmp_path, "r")
    content = json.loads(path.read_text())
    for statement in ("title", "headline"):
        content["settings"]["measures"]["clever"].pop(statement)
    content["checks"].append({"name": "clever_below_distance", "status": "warned", "evidence": "1 of 4"})
    path.write_text(json.dumps(content))
    again = RobustnessReport.load(path)
    assert again.headlines == report.headlines == {"clever": "CLEVER"}
    assert again.checks[-1].name == "bounds_below_distance"
    assert again.checks[-1].explanation
