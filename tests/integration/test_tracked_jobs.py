"""However a job ends, its W&B run ends with the job's exit status."""

import os
import sys
from pathlib import Path

import pytest

from symmetry_robustness import load_config
from symmetry_robustness.runs.directory import create_run
from tests import fork_server

from ..training.wandb_server import offline_runs
from .commands import TINY

# With stated settings of computing the objective is first called in training, when the W&B run exists.
TRACKED = [*TINY, "logger=wandb", "compute.compile=false"]
# An objective that ends the job in the way its setting says.
OBJECTIVE = """
import os, signal, time
from torch import nn
class Ending:
    def __init__(self, how: str, label_smoothing: float) -> None:
        self.how = how
    def __call__(self, network, images, labels):
        if self.how == "bug":
            raise ZeroDivisionError
        os.kill(os.getpid(), getattr(signal, self.how))
        time.sleep(0.5)
        logits = network(images)
        return nn.functional.cross_entropy(logits, labels), logits
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["+trainer.val_check_interval=7.5"], 2),
        (["objective._target_=ending.Ending", "+objective.how=bug"], 2),
        (["objective._target_=ending.Ending", "+objective.how=SIGTERM"], 143),
        (["objective._target_=ending.Ending", "+objective.how=SIGINT"], 130),
    ],
    ids=["wrong setting", "error in own code", "terminated", "interrupted"],
)
def test_the_run_ends_with_the_exit_status_of_the_job(
    words: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ending.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    create_run(load_config("train", [*TRACKED, *words]), tmp_path / "run", ["symrob", "train"])
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = fork_server.run(
        [sys.executable, "-m", "symmetry_robustness.runs.main", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": path, "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    (content,) = offline_runs(tmp_path / "run").values()
    codes = [record.exit.exit_code for record in content if record.HasField("exit")]
    assert (done.returncode, codes) == (status, [status]), done.stdout + done.stderr
