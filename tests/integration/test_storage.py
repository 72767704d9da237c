"""A full disk, a real one: a file system in memory, mounted as only root may; and folders that turn read-only."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import symmetry_robustness
from tests import fork_server

from .commands import TINY, symrob

pytestmark = pytest.mark.slow
WORDS = ["train", "-m", *TINY, "trainer.max_epochs=2", "seed=0,1"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = mount("-t", "tmpfs", "-o", "size=64M", "tmpfs", str(place))
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a file system takes root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def fill(ballast: Path, leave: int) -> None:
    """Leave so many bytes of the disk."""
    free = shutil.disk_usage(ballast.parent).free
    ballast.write_bytes(bytes(free - leave))


@pytest.mark.parametrize("missing", ["code", "checkpoint"])
def test_full_disk(missing: str, disk: Path) -> None:
    words = [*WORDS, f"hydra.sweep.dir={disk / 'sweep'}"]
    ballast = disk / "ballast"
    code = sum(path.stat().st_size for path in Path(symmetry_robustness.__file__).parent.rglob("*.py"))
    fill(ballast, code // 3 if missing == "code" else code + 700_000)
    done = symrob(*words, directory=disk.parent)
    output = done.stdout + done.stderr
    assert done.returncode == (2 if missing == "code" else 1), output
    assert f"{disk / 'sweep'}" in output
    assert "No space left on device" in output
    assert "Traceback" not in output
    ballast.unlink()
    done = symrob(*words, directory=disk.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((disk / "sweep").glob("*/checkpoints/last.ckpt"))) == 2


def test_directory_that_turns_read_only(tmp_path: Path) -> None:
    words = [*WORDS, "data.train_size=1024"]  # the second epoch takes long enough to interfere
    done = symrob(*words, f"hydra.sweep.dir={tmp_path / 'whole'}", directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = tmp_path / "sweep"
    words.append(f"hydra.sweep.dir={sweep}")
    process = fork_server.Popen(
        [sys.executable, "-m", "symmetry_robustness.app.cli", *words],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", fork_server.BOUND: "yes"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 180
    while not list(sweep.glob("*/checkpoints/last.ckpt")):
        assert time.monotonic() < end
        time.sleep(0.002)
    folders = [sweep, *(path for path in sweep.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    output, _ = process.communicate(timeout=120)
    for folder in folders:
        folder.chmod(0o755)
    assert process.returncode == 2, output  # the table of the sweep cannot be written either
    assert "last.ckpt could not be written (Permission denied); make room and start the job again" in output
    assert output.splitlines()[-1].startswith(f"error: {sweep}/results.csv: Permission denied; choose another place")
    assert "Traceback" not in output
    done = symrob(*words, directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, resumed = ({run.name: weights(run) for run in place.glob("*seed*")} for place in (tmp_path / "whole", sweep))
    assert len(whole) == 2
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
