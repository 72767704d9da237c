"""Trainings that are started in unusual surroundings."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from symmetry_robustness.app import cli
from symmetry_robustness.runs.exit_status import user_message

from .commands import TINY

ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NODELIST": "node[1-2]", "SLURM_JOB_NAME": "job"}


def test_a_job_in_an_allocation_without_srun_and_without_standard_input_runs_alone(tmp_path: Path) -> None:
    words = " ".join(["train", *TINY, "hydra.run.dir=run"])
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m symmetry_robustness.app.cli {words} <&-"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | ALLOCATION | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"done"' in (tmp_path / "run" / "summary.json").read_text()
    assert "Slurm allocated 4 tasks, but srun did not start this process; it runs alone" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "MASTER_PORT"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_place_that_is_no_number_is_refused(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "x")
    assert cli.main([command, "seed=1"]) == 2
    assert capfd.readouterr().err == f"error: {name}=x in the environment is no number; unset it\n"


@pytest.mark.parametrize(
    ("rank", "ranks"), [("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")]
)
@pytest.mark.parametrize("total", ["2", "0", None])
def test_a_rank_beyond_all_ranks_is_refused(
    rank: str, ranks: str, total: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(rank, "5")
    monkeypatch.delenv(ranks, raising=False)
    if total:
        monkeypatch.setenv(ranks, total)
    assert cli.main(["train", "seed=1"]) == 2
    assert (
        capfd.readouterr().err == f"error: {rank}=5 in the environment is no rank of {ranks}={total or 1}; unset both\n"
    )


@pytest.mark.parametrize(("name", "value"), [("MASTER_PORT", "999999"), ("NODE_RANK", "1")])
def test_places_that_no_job_has_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for other in ("MASTER_ADDR", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    assert cli.main(["train", "seed=1"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {name}={value} in the environment is ")
    assert line.endswith("; unset it")


def test_a_host_that_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node..1"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "seed=1"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: MASTER_ADDR=node..1 in the environment is no host that is known here")


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RuntimeError) as caught:
            TCPStore("127.0.0.1", taken.getsockname()[1], is_master=True)
    message = user_message(caught.value)
    assert message
    assert message.startswith("processes cannot meet (")
    assert message.endswith("; unset MASTER_ADDR and MASTER_PORT, or set a free port")
