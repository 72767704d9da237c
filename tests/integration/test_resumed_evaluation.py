"""`symrob evaluate` killed at twenty places, started twice at once, and started again when done."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from symmetry_robustness import build_network, load_config
from symmetry_robustness.robustness import RobustnessReport
from tests.fork_server import KILL, Popen

# The stages of the command, and in how many shards it does each.
STAGES = {"attacks": 16, "CLEVER": 2, "gradient_norm": 8, "symmetry": 8, "checks": 1}
MEASURES = ("gradient_norm", "symmetry")
CLI = "symmetry_robustness.app.cli"
LOADING = [f"symmetry_robustness.app.evaluation {name} 1" for name in ("_read_images", "evaluate_in_shards")]
# Further kills: so many shards are there, and the next is computed but not saved, or half of its first file is, or of
# its second.
SHARDS = [1, 2, 4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 20, 24, 28, 32, 34, 34]
SAVING = ["symmetry_robustness.results.report RobustnessReport.save {0}", "os fsync {1}", "os fsync {2}"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained network, which is all that an evaluation needs."""
    directory = tmp_path_factory.mktemp("evaluate") / "run"
    config = load_config("train", ["model=standard_4layer", "data.test_size=64"])
    torch.manual_seed(0)
    state = {f"network.{key}": value for key, value in build_network(config).state_dict().items()}
    (directory / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, directory / "config.yaml")
    torch.save({"config": OmegaConf.to_yaml(config), "state_dict": state}, directory / "checkpoints" / "last.ckpt")
    return directory


def command(run: Path, *words: str) -> list[str]:
    protocol = ["robustness=quick", "robustness.attacks.pgd.random_start=true", "robustness.clever_images=4"]
    # So small that the images stand, and all steps of all epsilons are taken.
    protocol += ["robustness.epsilons=[1e-4,2e-4,3e-4]", "robustness.attacks.pgd.steps=3", "robustness.checks=full"]
    protocol += ["num_images=32", "shard_size=2", *(f"robustness.measures.{n}.images=16" for n in MEASURES)]
    points = [f"robustness.clever.{word}" for word in ("num_batches=2", "samples_per_batch=16", "targets=top-1")]
    start = [sys.executable, "-m", CLI, "evaluate"]
    return [*start, f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", *protocol, *points, *words]


def begin(words: list[str], **own: str) -> "subprocess.Popen[str]":
    """Start the command in our environment, without what tells a process that it is one of many."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD_SIZE", "SLURM_"))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return Popen(words, env=kept | {"OMP_NUM_THREADS": "1"} | own, text=True, start_new_session=True, **pipes)


def finish(words: list[str], status: int = 0, **own: str) -> str:
    process = begin(words, **own)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def equal(first: Path, second: Path) -> None:
    one, two = (RobustnessReport.load(path) for path in (first, second))
    assert one.summary() == two.summary()
    assert one.checks == two.checks
    with np.load(first.with_suffix(".npz")) as a, np.load(second.with_suffix(".npz")) as b:
        assert a.files == b.files
        for name in a.files:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
            assert a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture(scope="module")
def undisturbed(run: Path) -> Path:
    """The report of a run that nobody killed."""
    assert "clever: 4 of 4 images" in finish(command(run, "name=undisturbed"))
    assert not (run / "robustness" / "undisturbed.partial").exists()
    return run / "robustness" / "undisturbed.json"


def test_killed_at_twenty_places_ends_with_the_same_numbers(run: Path, undisturbed: Path) -> None:
    words, partial = command(run, "name=killed"), run / "robustness" / "killed.partial"

    def finished() -> int:
        return len(list(partial.glob("*/*-*.json")))

    def kill_at(place: str) -> None:
        finish(words, -signal.SIGKILL, **{KILL: f"{CLI} {place}"})
        assert not (run / "robustness" / "killed.json").exists()

    for place in LOADING:
        kill_at(place)
        assert finished() == 0
    for number, shards in enumerate(SHARDS):
        own = shards - finished()  # of the process
        kill_at(SAVING[number % 3].format(own + 1, 2 * own + 1, 2 * own + 2))
        assert finished() == shards
    assert len(LOADING) + len(SHARDS) == 20
    assert finished() == sum(STAGES.values()) - STAGES["checks"]
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
