"""A sweep that is killed again and again ends with the results of one that nobody touched."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.waiting import wait_until

WORDS = [
    *("train", "-m", "model=standard_4layer", "data.train_size=512", "data.validation_size=64", "data.test_size=64"),
    *("data.batch_size=64", "trainer.max_epochs=3", "robustness=none"),
    *("seed=0,1", "optimizer.lr=0.01,0.001", "hydra/launcher=parallel"),
    *("hydra.launcher.executor.n_jobs=2", "hydra.sweep.dir=sweep"),
]
JOBS = 4


def start(directory: Path) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "symmetry_robustness.app.cli", *WORDS],
        cwd=directory,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def job_processes(directory: Path) -> Iterator[int]:
    """Processes of this sweep's jobs."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "symmetry_robustness.runs.main" in words and any(word.startswith(str(directory)) for word in words):
            yield int(path.parent.name)


def weights(sweep: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Run directory -> weights, of every job that is done."""
    done = [path.parent for path in sweep.glob("*/summary.json") if '"done"' in path.read_text()]
    return {run.name: torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in done}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_killed_at_random_moments_and_started_again(tmp_path: Path) -> None:
    dice = random.Random(0)
    for victim in ("sweep", "job", "sweep", "job", "sweep"):
        process = start(tmp_path / "disturbed")
        wait_until(lambda running=process: any(job_processes(tmp_path)) or running.poll() is not None)
        time.sleep(dice.uniform(0, 8))
        if victim == "job":
            for job in [*job_processes(tmp_path)][:1]:
                os.kill(job, signal.SIGKILL)
            process.send_signal(signal.SIGTERM)  # the others save themselves
            process.wait(60)
        process.kill()
        process.wait()
        wait_until(lambda: not any(job_processes(tmp_path)))  # a killed sweep leaves nothing running behind
    assert start(tmp_path / "disturbed").wait(300) == 0
    assert start(tmp_path / "undisturbed").wait(300) == 0
    disturbed, undisturbed = (weights(tmp_path / name / "sweep") for name in ("disturbed", "undisturbed"))
    assert disturbed.keys() == undisturbed.keys()
    assert len(undisturbed) == JOBS
    for name, state in undisturbed.items():
        assert all(torch.equal(state[key], disturbed[name][key]) for key in state), name
