"""`symrob evaluate` killed at twenty places, started twice at once, and started again when done."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from symmetry_robustness import build_network, load_config
from symmetry_robustness.robustness import RobustnessReport
from tests import fork_server

# The stages of the command, and in how many shards it does each.
STAGES = {"attacks": 16, "CLEVER": 2, "gradient_norm": 8, "symmetry": 8, "checks": 1}
# The command is killed each time when so many shards are there: twice while it still loads, then in every stage.
KILLS = [0, 0, 1, 2, 4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 20, 24, 28, 32, 34, 34]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained network, which is all that an evaluation needs."""
    directory = tmp_path_factory.mktemp("evaluate") / "run"
    config = load_config("train", ["model=standard_4layer", "data.test_size=512"])
    torch.manual_seed(0)
    state = {f"network.{key}": value for key, value in build_network(config).state_dict().items()}
    (directory / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, directory / "config.yaml")
    torch.save({"config": OmegaConf.to_yaml(config), "state_dict": state}, directory / "checkpoints" / "last.ckpt")
    return directory


def command(run: Path, *words: str) -> list[str]:
    protocol = ["robustness=quick", "robustness.attacks.pgd.random_start=true", "robustness.clever_images=2"]
    # So small that the images stand, and all steps of all epsilons are taken.
    protocol += ["robustness.epsilons=[1e-4,2e-4,3e-4]", "robustness.attacks.pgd.steps=30", "robustness.checks=full"]
    protocol += ["num_images=128", "shard_size=8"]
    points = [f"robustness.clever.{word}" for word in ("num_batches=8", "samples_per_batch=512", "targets=top-1")]
    start = [sys.executable, "-m", "symmetry_robustness.app.cli", "evaluate"]
    return [*start, f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", *protocol, *points, *words]


def clean_environment(**own: str) -> dict[str, str]:
    """Ours, without what tells a process that it is one of many."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD_SIZE", "SLURM_"))}
    return kept | {"OMP_NUM_THREADS": "1"} | own


def begin(words: list[str], **own: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, env=clean_environment(**own), text=True, start_new_session=True, **pipes)


def finish(words: list[str], status: int = 0) -> str:
    done = fork_server.run(words, env=clean_environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr + done.stdout


def equal(first: Path, second: Path) -> None:
    one, two = (RobustnessReport.load(path) for path in (first, second))
    assert one.summary() == two.summary()
    assert one.checks == two.checks
    with np.load(first.with_suffix(".npz")) as a, np.load(second.with_suffix(".npz")) as b:
        assert a.files == b.files
        for name in a.files:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
            assert a[name].tobytes() == b[name].tobytes(), name


# Loads what the command needs once; every line of standard input is a command that runs in a process of its own, whose
# number and, when it has ended, whose status are written. Twenty times the loading would be most of the test.
LAUNCHER = """
import json, os, sys
import torchattacks
from symmetry_robustness.app import cli, evaluation
from symmetry_robustness.data import ShapesDataModule
os.environ["HYDRA_FULL_ERROR"] = "1"
for line in sys.stdin:
    words, path = json.loads(line)
    if (child := os.fork()) == 0:
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os._exit(cli.main(words))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Life(NamedTuple):
    """One start of the command: its process, what it prints, and who knows how it ended."""

    process: int
    output: Path
    launcher: subprocess.Popen[str]

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Returns at once when the command has come so far; fails if it has ended before."""
        started = time.monotonic()
        while not reached():
            os.kill(self.process, 0)
            assert time.monotonic() - started < 120
            time.sleep(0.002)

    def end(self) -> int:
        """The status as `os.waitpid` gives it."""
        assert self.launcher.stdout is not None
        return int(self.launcher.stdout.readline())


@pytest.fixture(scope="module")
def launcher() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], env=clean_environment(), text=True, **pipes) as process:
        yield process


def live(launcher: subprocess.Popen[str], words: list[str], output: Path) -> Life:
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    output.write_text("")
    launcher.stdin.write(json.dumps([words[3:], str(output)]) + "\n")
    launcher.stdin.flush()
    return Life(int(launcher.stdout.readline()), output, launcher)


@pytest.fixture(scope="module")
def undisturbed(run: Path, launcher: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that nobody killed."""
    life = live(launcher, command(run, "name=undisturbed"), tmp_path_factory.mktemp("undisturbed") / "output")
    assert life.end() == 0
    assert "clever: 2 of 2 images" in life.output.read_text()
    assert not (run / "robustness" / "undisturbed.partial").exists()
    return run / "robustness" / "undisturbed.json"


def test_killed_at_twenty_places_ends_with_the_same_numbers(
    run: Path, undisturbed: Path, launcher: subprocess.Popen[str], tmp_path: Path
) -> None:
    words, partial = command(run, "name=killed"), run / "robustness" / "killed.partial"

    def finished() -> int:
        return len(list(partial.glob("*/*-*.json")))

    found = []
    for shards in KILLS:
        life = live(launcher, words, tmp_path / "output")
        life.wait_for(lambda shards=shards: finished() >= shards)
        os.kill(life.process, signal.SIGKILL)
        assert life.end() == signal.SIGKILL, life.output.read_text()
        assert not (run / "robustness" / "killed.json").exists()
        found.append(finished())
    print(f"shards finished at each kill: {found}")
    assert len(found) == 20
    assert all(count >= shards for count, shards in zip(found, KILLS, strict=True))
    assert found == sorted(found)
    assert 0 < found[2] < STAGES["attacks"]
    assert found[-1] == sum(STAGES.values()) - STAGES["checks"]
    finish(words)
    equal(run / "robustness" / "killed.json", undisturbed)
    assert not partial.exists()


def test_two_processes_share_the_work(run: Path, undisturbed: Path) -> None:
    words = command(run, "name=shared")
    processes = [begin(words, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert any("report:" in output for output in outputs)
    equal(run / "robustness" / "shared.json", undisturbed)
    assert not (run / "robustness" / "shared.partial").exists()


def test_a_finished_report_is_kept_unless_overwrite_is_set(run: Path, undisturbed: Path) -> None:
    before = undisturbed.read_bytes()
    assert "already evaluated" in finish(command(run, "name=undisturbed"))
    refusal = finish(command(run, "num_images=64", "name=undisturbed"), status=2)
    assert "another num_images; choose another name=… or set overwrite=true" in refusal
    assert undisturbed.read_bytes() == before
    # Shares of other settings lie in a folder of their own and are left alone.
    foreign = run / "robustness" / "small.partial" / "0123456789abcdef"
    foreign.mkdir(parents=True)
    small = ["num_images=16", "robustness.clever=null", "name=small"]
    first = finish(command(run, *small, "output="))  # empty: where the checkpoint's run keeps its reports
    assert f"report: {run / 'robustness' / 'small.json'}" in first
    again = finish(command(run, *small, "overwrite=true"))
    assert "already" not in again
    assert first.splitlines()[-2:] == again.splitlines()[-2:]
    assert [*foreign.parent.iterdir()] == [foreign]
