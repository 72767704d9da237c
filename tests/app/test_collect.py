"""The table at the end of a sweep: one row per job, and what to do about those that are not done."""

import csv
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from symmetry_robustness.app.collect import collect, main
from tests import fork_server

NUMBERS = {"clean_accuracy": 0.7123, "worst_case.linf_0.03137": 0.25, "clever": 0.125, "parameters": 10}


WORDS = ("-m", "seed=0,1,2,3,4", "model.trunk=[pool, 8]", "hydra.sweep.dir=elsewhere")


def add(
    sweep: Path, seed: int, summary: dict[str, Any] | None = None, words: tuple[str, ...] = WORDS, **files: str
) -> Path:
    directory = sweep / f"standard_seed-{seed}_{seed:012d}"
    directory.mkdir(parents=True)
    row = {"key": f"{seed:012d}", "directory": directory.name, "overrides": [f"seed={seed}"], "words": words}
    (sweep / "jobs").mkdir(exist_ok=True)
    (sweep / "jobs" / f"{seed:012d}.json").write_text(json.dumps(row))
    (directory / "config.yaml").write_text("name: standard\n")
    (directory / "provenance.json").write_text(json.dumps({"seed": seed}))
    if summary is not None:
        (directory / "summary.json").write_text(json.dumps(summary))
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text)
    return directory


def done(seed: int, **more: Any) -> dict[str, Any]:
    return {"status": "done", "name": "standard", "group": "g", "seed": seed, "data": "shapes", **NUMBERS, **more}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A job of each kind, but for one that runs."""
    sweep = tmp_path / "sweep"
    add(sweep, 0, done(0))
    add(sweep, 1, {"status": "failed", "error": "CUDA out of memory | [red]"}, log_txt="Traceback …\n")
    lost = add(sweep, 2, progress_json="{}", log_txt="epoch 1/3: loss 0.5\n")
    os.utime(lost / "progress.json", (time.time() - 3600,) * 2)
    add(sweep, 3, {"status": "interrupted"})
    add(sweep, 4)
    return sweep


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_job_has_one_row(sweep: Path) -> None:
    assert collect(sweep) == 1
    rows = read(sweep / "results.csv")
    assert [(row["key"], row["job"], row["seed"], row["state"]) for row in rows] == [
        (f"{seed:012d}", f"seed={seed}", str(seed), state)
        for seed, state in enumerate(("done", "failed", "lost", "interrupted", "queued"))
    ]
    assert {name: float(rows[0][name]) for name in NUMBERS} == NUMBERS
    assert all(row["clean_accuracy"] == "" for row in rows[1:])
    assert rows[1]["error"] == "CUDA out of memory | [red]"
    assert rows[2]["error"] == "epoch 1/3: loss 0.5"
    assert rows[1]["log"] == str(sweep / "standard_seed-1_000000000001" / "log.txt")


def test_the_markdown_table_says_the_same(sweep: Path) -> None:
    collect(sweep)
    lines = [line for line in (sweep / "results.md").read_text().splitlines() if line.startswith("|")]
    cells = [
        [cell.strip().replace("\\|", "|") for cell in line.strip("|").replace("\\|", "\0").split("|")] for line in lines
    ]
    cells = [[cell.replace("\0", "|") for cell in line] for line in cells]
    assert [dict(zip(cells[0], line, strict=True)) for line in cells[2:]] == read(sweep / "results.csv")


def test_the_terminal_is_told_what_failed_and_what_to_do(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(sweep)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "worst case, linf 8/255 %" in out
    assert any(line.split() == ["│", "seed=0", "│", "71.2", "│", "25.0", "│"] for line in lines)
    (index,) = [index for index, line in enumerate(lines) if line == "✖ failed  seed=1  CUDA out of memory | [red]"]
    assert lines[index + 1] == f"  {sweep / 'standard_seed-1_000000000001' / 'log.txt'}"
    assert "✖ 1 failed  ✖ 1 lost  ■ 1 interrupted  ○ 1 queued  ✔ 1 done" in lines
    assert "the same command again runs only what is missing (4):" in lines
    assert f"  symrob train -m seed=0,1,2,3,4 'model.trunk=[pool, 8]' hydra.sweep.dir={sweep}" in lines


def test_each_missing_job_is_in_a_command_that_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, 0, done(0), words=("-m", "seed=0"))
    for seed in (1, 2):
        add(tmp_path, seed, words=("-m", "seed=0,1,2"))
    add(tmp_path, 3, words=("-m", "seed=3"))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "config.yaml").write_text("name: standard\n")
    collect(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    index = lines.index("the same commands again run only what is missing (3):")
    assert lines[index + 1 : index + 4] == [
        f"  symrob train -m seed=0,1,2 hydra.sweep.dir={tmp_path}",
        f"  symrob train -m seed=3 hydra.sweep.dir={tmp_path}",
        "the command they were started with, given again, runs only what is missing (1)",
    ]


@pytest.mark.parametrize(
    "name",
    ["sweep", "x=ü y", "null", "1e3", ".5", "007", 'a"b', "it's", "a\\", 'a\\"b', "a,b", "a[1]", "~x", "-m", "a#b"],
)
def test_the_command_is_one_for_shell_and_hydra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    add(Path(name), 0)
    collect(Path(name))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  symrob train ")]
    place = OverridesParser.create().parse_override(shlex.split(line)[-1])
    assert (place.key_or_group, place.value()) == ("hydra.sweep.dir", name)
    assert name != "sweep" or line.endswith(" hydra.sweep.dir=sweep")


def test_run_directories_stay_as_they_are(sweep: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sweep.rglob("*") if path.is_file()}

    before = content()
    collect(sweep)
    after = content()
    assert {path: text for path, text in after.items() if path in before} == before
    assert {Path(path).name for path in set(after) - set(before)} == {"results.csv", "results.md"}


def test_a_sweep_without_a_gap_is_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(40):
        add(tmp_path, seed, done(seed, test_accuracy={"test/a/accuracy": 0.5, "test/b/accuracy": 0.25}))
    assert main([str(tmp_path), "--output", str(tmp_path / "new" / "table.csv")]) == 0
    out = capsys.readouterr().out
    assert "again" not in out
    assert "10 more in the files" in out
    rows = read(tmp_path / "new" / "table.csv")
    assert [row["seed"] for row in rows] == [str(seed) for seed in range(40)]
    assert rows[7]["test_accuracy.test/b/accuracy"] == "0.25"
    assert (tmp_path / "new" / "table.md").exists()
    assert not (tmp_path / "results.csv").exists()


def test_a_job_that_runs_is_not_called_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, 0, done(0))
    add(tmp_path, 1, progress_json="{}")
    assert collect(tmp_path) == 1
    out = capsys.readouterr().out
    assert "1 still running" in out
    assert "again runs" not in out


def test_a_refused_file_is_one_line_after_the_table(sweep: Path) -> None:
    place = sweep / "jobs" / f"{0:012d}.json" / "results.csv"  # below a file nothing can be made
    command = [sys.executable, "-m", "symmetry_robustness.app.cli", "collect", str(sweep), "--output", str(place)]
    run = fork_server.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "✔ 1 done" in run.stdout
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
