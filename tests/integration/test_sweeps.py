"""Sweeps as a user runs them: real processes, real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from symmetry_robustness.app import cli
from tests import fork_server

from .commands import TINY, symrob


def summaries(sweep: Path) -> dict[int, dict[str, object]]:
    """Seed -> summary.json of each job that the manifest knows."""
    rows = [json.loads(path.read_text()) for path in (sweep / "jobs").glob("*.json")]
    found = [sweep / row["directory"] / "summary.json" for row in rows]
    return {json.loads(path.read_text())["seed"]: json.loads(path.read_text()) for path in found if path.exists()}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sweeps") / "sweep"
    done = symrob("train", "-m", *TINY, "seed=0,1", f"hydra.sweep.dir={directory}", directory=directory.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(summaries(directory)) == {0, 1}
    return directory


@pytest.fixture(scope="module")
def grown(sweep: Path) -> tuple[Path, dict[Path, int]]:
    """The same sweep with a longer grid, and when each summary of before was written."""
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/summary.json")}
    words = ["seed=1,0,2,3", "hydra/launcher=parallel", "hydra.launcher.executor.n_jobs=2"]
    done = symrob("train", "-m", *TINY, *words, f"hydra.sweep.dir={sweep}", directory=sweep.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 jobs, 2 done before" in done.stdout
    return sweep, before


def test_a_longer_grid_adds_only_the_new_jobs(grown: tuple[Path, dict[Path, int]]) -> None:
    sweep, before = grown
    assert set(summaries(sweep)) == {0, 1, 2, 3}
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_the_output_of_jobs_side_by_side_does_not_mix(grown: tuple[Path, dict[Path, int]]) -> None:
    outputs = [path.read_text() for path in grown[0].glob("*/output.txt")]
    assert len(outputs) == 2
    assert all(text.count("done: clean accuracy") == 1 for text in outputs)


def test_a_grid_inside_of_an_experiment_is_the_same_sweep(grown: tuple[Path, dict[Path, int]], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    grid = "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}\n"
    (tmp_path / "experiment" / "grid.yaml").write_text(f"# @package _global_\n{grid}")
    words = ["--config-dir", str(tmp_path), "experiment=grid", f"hydra.sweep.dir={grown[0]}"]
    done = symrob("train", *words, *TINY, directory=tmp_path)
    assert (done.returncode, "2 jobs, 2 done before" in done.stdout) == (0, True), done.stdout + done.stderr


def test_the_same_words_find_their_sweep(tmp_path: Path) -> None:
    words = ["train", "-m", *TINY, "seed=0,1", "resume=auto"]
    first = symrob(*words, directory=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    again = symrob(*words, directory=tmp_path)
    assert (again.returncode, "2 jobs, 2 done before" in again.stdout) == (0, True), again.stdout + again.stderr
    assert len(list((tmp_path / "outputs" / "none").iterdir())) == 1  # nothing is left of what Hydra prepared


def test_two_sweeps_at_once_in_one_directory_run_each_job_once(tmp_path: Path) -> None:
    words = ["train", "-m", *TINY, "seed=0,1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    command = [sys.executable, "-m", "symmetry_robustness.app.cli", *words]
    processes = [fork_server.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}) for _ in range(2)]
    assert [process.wait(300) for process in processes] == [0, 0]
    assert set(summaries(tmp_path / "sweep")) == {0, 1, 2}
    logs = [path.read_text() for path in (tmp_path / "sweep").glob("*/log.txt")]
    assert [log.count("done: clean accuracy") for log in logs] == [1, 1, 1]


def test_a_run_that_is_done_stays_done_when_its_terminal_is_gone(tmp_path: Path) -> None:
    start = [sys.executable, fork_server.__file__, "-m", "symmetry_robustness.app.cli"]
    done = subprocess.run(
        f"set -o pipefail; {' '.join([*start, 'train', *TINY, 'hydra.run.dir=run'])} | head -1",
        shell=True,
        executable="bash",
        cwd=tmp_path,
        env=os.environ | fork_server.environment(),
        timeout=300,
    )
    assert done.returncode == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["optimizer.lr=0.1,x"], "optimizer.lr = 'x'"),
        (["seed=0,1", "hydra.launcher.on_error=no"], "hydra.launcher.on_error"),
        (["seed=0,1", "hydra.launcher.executor.n_jobs=0"], "hydra.launcher.executor.n_jobs"),
        (["seed=0,1", "--detach"], "hydra/launcher=slurm"),
        (["seed=0,1", "hydra.launcher.executor=null"], "hydra.launcher.executor"),
        (["seed=0,1", "hydra/launcher=slurm", "hydra.launcher.executor.poll_s=abc"], "hydra.launcher.executor.poll_s"),
        (["seed=0,1", "hydra/launcher=slurm", "hydra.launcher.executor.setup=module"], "hydra.launcher.executor.setup"),
        (["seed=0,1", "hydra/launcher=slurm"], "no sbatch on this machine"),
        (
            ["seed=0,1", "hydra/launcher=slurm", "trainer=ddp_cpu", "hydra.launcher.executor.gpus_per_node=1"],
            "hydra.launcher.executor.gpus_per_node=1, but trainer.accelerator=cpu",
        ),
        (["seed=range(0)"], "no jobs"),
        (["seed=0,1", "name=../evil"], "name=../evil"),
        (["seed=0,1", "model=standard,nonsense"], "nonsense"),
    ],
)
def test_a_sweep_with_a_mistake_starts_nothing(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["symrob"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    if "no sbatch" not in named:  # it is only looked for
        (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    small = [word for word in TINY if not (word.startswith("model=") and any(w.startswith("model=") for w in words))]
    assert cli.main(["train", "-m", *small, *words, f"hydra.sweep.dir={tmp_path / 'sweep'}"]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line]
    assert named in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("sbatch", "multirun.yaml")]
