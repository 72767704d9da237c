"""W&B in processes of their own, because it keeps its state per process; its offline files are counted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from symmetry_robustness.errors import UserError
from symmetry_robustness.training.tracking import wandb_logger

SCRIPT = """
import logging, sys
from pathlib import Path
from symmetry_robustness.training import tracking
logging.basicConfig(level=logging.INFO, format="%(message)s")
logger = tracking.wandb_logger(
    directory=Path(sys.argv[1]), project="p", entity=None, mode=sys.argv[2], run_id="abcd1234", name="n", group="g",
    job_type="standard", tags=["t"], config={"model": {"width": 3}},
)
logger.log_metrics({"train/loss": 1.0}, step=7)
tracking.finish(0)
"""
NOWHERE = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}  # a port nothing listens on


def track(directory: Path, mode: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(directory), mode],
        env=clean | {"HOME": str(directory)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.parametrize(
    ("mode", "environment", "reason"),
    [
        ("offline", {}, ""),
        ("auto", {}, "no API key"),
        ("auto", NOWHERE, "127.0.0.1 does not answer"),
        ("online", {"WANDB_MODE": "offline"}, ""),
        pytest.param("online", NOWHERE, "could not start online", marks=pytest.mark.slow),
    ],
    ids=["offline", "no key", "no server", "told by the environment", "server lost at the start"],
)
def test_a_run_always_goes_on_and_leaves_one_offline_run(
    mode: str, environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    done = track(tmp_path, mode, **environment)
    assert done.returncode == 0, done.stderr
    assert reason in done.stderr
    (run,) = (tmp_path / "wandb").glob("offline-run-*-abcd1234")
    (file,) = run.glob("*.wandb")
    assert b"standard" in file.read_bytes()


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logger\.wandb\.mode"):
        wandb_logger(
            directory=tmp_path, project="p", entity=None, mode="sometimes", run_id="x", name="n", group="g",
            job_type="j", tags=[], config={},
        )  # fmt: skip
