"""A sweep that is killed at one place after the other ends with the results of one that nobody touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fork_server import KILL, Popen, running
from tests.waiting import wait_until

SWEEP, JOB = "symmetry_robustness.app.cli", "symmetry_robustness.runs.main"
ARGV = [
    *("train", "-m", "model=standard_4layer", "data.train_size=256", "data.validation_size=64", "data.test_size=64"),
    *("data.batch_size=64", "trainer.max_epochs=2", "robustness=none"),
    *("compute.precision=32-true", "compute.channels_last=true"),
    *("seed=0,1", "optimizer.lr=0.01,0.001", "hydra/launcher=parallel"),
    *("hydra.launcher.executor.n_jobs=2", "hydra.sweep.dir=sweep"),
]
JOBS = 4
# Who is killed before which call, and how many of the jobs are done then at least.
PLACES = [
    (SWEEP, "symmetry_robustness.sweeps.plan PlannedJob.write 3"),  # the plan is half written
    (SWEEP, "symmetry_robustness.sweeps.plan write_json 2"),  # a run directory is there, its row of the manifest is not
    (SWEEP, "symmetry_robustness.runs.process JobProcess.wait 2"),  # two jobs have started
    (JOB, "symmetry_robustness.runs.train train 1"),  # the lock is held, nothing else is there
    (JOB, "symmetry_robustness.training Classifier.training_step 2"),  # in the first epoch
    (JOB, "symmetry_robustness.training Classifier.training_step 6"),  # in the second epoch, after a checkpoint
    (JOB, "os fsync 2"),  # a checkpoint is half written
    (JOB, "symmetry_robustness.training Classifier.test_step 1"),  # training is over
]


def start(directory: Path, kill: str = "") -> "subprocess.Popen[bytes]":
    directory.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != KILL} | {"OMP_NUM_THREADS": "1"}
    output = (directory / "output.txt").open("ab")
    with output:
        return Popen(
            [sys.executable, "-m", SWEEP, *ARGV],
            cwd=directory,
            env=environment | ({KILL: kill} if kill else {}),
            stdout=output,
            stderr=output,
        )


def weights(sweep: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Run directory -> weights, of every job that is done."""
    done = [path.parent for path in sweep.glob("*/summary.json") if '"done"' in path.read_text()]
    return {run.name: torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in done}


@pytest.mark.slow
def test_killed_at_one_place_after_the_other_and_started_again(tmp_path: Path) -> None:
    disturbed, sweep = tmp_path / "disturbed", tmp_path / "disturbed" / "sweep"
    for victim, place in PLACES:
        status = start(disturbed, f"{victim} {place}").wait(300)
        assert status == (-9 if victim == SWEEP else 1), (disturbed / "output.txt").read_text()
        wait_until(lambda: not running(JOB, str(sweep)))  # a killed sweep leaves nothing running behind
        assert not weights(sweep) or place == PLACES[2][1]  # those two jobs save themselves, or are done before
    assert start(disturbed).wait(300) == 0, (disturbed / "output.txt").read_text()
    assert start(tmp_path / "undisturbed").wait(300) == 0
    found, expected = weights(sweep), weights(tmp_path / "undisturbed" / "sweep")
    assert found.keys() == expected.keys()
    assert len(expected) == JOBS
    for name, state in expected.items():
        assert all(torch.equal(state[key], found[name][key]) for key in state), name
