"""Commands as a user gives them, and the smallest job to give them about."""

import os
import subprocess
import sys
from pathlib import Path

from tests.fork_server import run

# It trains and writes everything that a run writes; what is attacked, and how, is up to the test.
TINY = [
    "model=standard_4layer",
    "data.train_size=128",
    "data.validation_size=64",
    "data.test_size=64",
    "data.batch_size=64",
    "trainer.max_epochs=1",
    "compute.precision=32-true",  # else measured
    "compute.channels_last=true",
    "robustness=none",
]


def symrob(*words: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `symrob` in a directory, on one core and without the network."""
    return run(
        [sys.executable, "-m", "symmetry_robustness.app.cli", *words],
        cwd=directory,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
