"""`symrob evaluate` killed at random moments, started twice at once, and started again when done."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from symmetry_robustness import build_network, load_config
from symmetry_robustness.robustness import RobustnessReport

# How often the command is killed; more is asked for by hand.
KILLS = int(os.environ.get("SYMROB_TEST_KILLS", "3"))
SHARES = 34  # 16 of attacks, 2 of CLEVER, 8 of each measure

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
    points = [f"robustness.clever.{word}" for word in ("num_batches=8", "samples_per_batch=512", "targets=top-1")]
    start = [sys.executable, "-m", "symmetry_robustness.app.cli", "evaluate"]
    return [*start, f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", *protocol, *points, "window=8", *words]


def clean_environment(**own: str) -> dict[str, str]:
    """Ours, without what tells a process that it is one of many."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD_SIZE", "SLURM_"))}
    return kept | {"OMP_NUM_THREADS": "1"} | own


def begin(words: list[str], **own: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, env=clean_environment(**own), text=True, start_new_session=True, **pipes)


def finish(words: list[str], status: int = 0) -> str:
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr + done.stdout


def equal(first: Path, second: Path) -> None:
    one, two = (RobustnessReport.load(path) for path in (first, second))
    assert one.summary() == two.summary()
    assert one.checks == two.checks
    with np.load(first.with_suffix(".npz")) as a, np.load(second.with_suffix(".npz")) as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(run: Path) -> Path:
    output = finish(command(run, "num_images=128", "name=undisturbed"))
    assert "CLEVER: 2 of 2 images" in output
    assert not (run / "robustness" / "undisturbed.partial").exists()
    return run / "robustness" / "undisturbed.json"


def test_killed_at_random_moments_ends_with_the_same_numbers(run: Path, undisturbed: Path) -> None:
    words = command(run, "num_images=128", "name=killed")
    partial = run / "robustness" / "killed.partial"
    draw = random.Random(KILLS)
    found = []
    for _ in range(KILLS):
        process = begin(words)
        assert process.stdout is not None
        while "images" not in process.stdout.readline():  # the first line of progress: a share has begun
            assert process.poll() is None
        time.sleep(draw.uniform(0, 4 / (KILLS + 4)))
        process.kill()
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output
        assert not (run / "robustness" / "killed.json").exists()
        found.append(len(list(partial.glob("*/*.json"))))
    print(f"shares finished at each kill: {found}")
    assert 0 < found[-1] < SHARES
    output = finish(words)
    assert "attacks: 0 of 128" not in output
    equal(run / "robustness" / "killed.json", undisturbed)
    assert not partial.exists()


def test_two_processes_share_the_work(run: Path, undisturbed: Path) -> None:
    words = command(run, "num_images=128", "name=shared")
    processes = [begin(words, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert any("worst_case" in output for output in outputs)
    equal(run / "robustness" / "shared.json", undisturbed)
    assert not (run / "robustness" / "shared.partial").exists()


def test_a_finished_report_is_kept_unless_overwrite_is_set(run: Path, undisturbed: Path) -> None:
    before = undisturbed.read_bytes()
    assert "already evaluated" in finish(command(run, "num_images=128", "name=undisturbed"))
    refusal = finish(command(run, "num_images=64", "name=undisturbed"), status=2)
    assert "another num_images; choose another name=… or set overwrite=true" in refusal
    assert undisturbed.read_bytes() == before
    # Shares of other settings lie in a folder of their own and are left alone.
    foreign = run / "robustness" / "small.partial" / "0123456789abcdef"
    foreign.mkdir(parents=True)
    small = ["num_images=16", "robustness.clever=null", "name=small"]
    first = finish(command(run, *small))
    again = finish(command(run, *small, "overwrite=true"))
    assert "already" not in again
    assert first.splitlines()[-2:] == again.splitlines()[-2:]
    assert [*foreign.parent.iterdir()] == [foreign]
