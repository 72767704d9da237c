"""A sweep of new processes that is killed at random moments ends with the results of one that nobody touched."""

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

from tests.integration.test_chaos import ARGV, JOB, JOBS, SWEEP, weights
from tests.waiting import wait_until


def start(directory: Path) -> "subprocess.Popen[bytes]":
    directory.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", SWEEP, *ARGV],
        cwd=directory,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def job_processes(directory: Path) -> Iterator[int]:
    """Processes of this sweep's jobs."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if JOB in argv and any(word.startswith(str(directory)) for word in argv):
            yield int(path.parent.name)


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
