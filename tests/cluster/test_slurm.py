"""Sweeps on a real Slurm of two nodes: `make test-cluster`."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cluster.local_slurm import LocalSlurm
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STEPS, EPOCHS = 8, 3
SMALL = [
    *("--config-dir", str(HERE / "conf"), "optimizer=recorded", "model=standard_4layer", "robustness=none"),
    *(f"data.train_size={32 * STEPS}", "data.batch_size=32", "data.validation_size=64", "data.test_size=64"),
    *(f"trainer.max_epochs={EPOCHS}", "hydra/launcher=slurm", "hydra.launcher.executor.cpus_per_task=1"),
    "hydra.launcher.executor.poll_s=1",
    # Nothing is measured, for which the optimiser would be asked for steps that are no steps of the training.
    *("compute.precision=32-true", "compute.channels_last=true", "compute.compile=false"),
]


class Sweep:
    """A sweep directory and the command that fills it."""

    def __init__(self, cluster: LocalSlurm, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory

    def start(self, *words: str) -> "subprocess.Popen[str]":
        record = f"optimizer.record={self.directory.parent / 'record'}"
        return self.run("train", "-m", *SMALL, record, *words, f"hydra.sweep.dir={self.directory}")

    def run(self, *command: str) -> "subprocess.Popen[str]":
        path = os.pathsep.join((str(ROOT), str(HERE)))
        return subprocess.Popen(
            [sys.executable, "-m", "symmetry_robustness.app.cli", *command],
            cwd=self.directory.parent,
            env=os.environ | self.environment() | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        return self.cluster.environment

    def runs(self, seed: int) -> list[Path]:
        return sorted(self.directory.glob(f"*_seed-{seed}_*"))

    def statuses(self) -> list[str]:
        return [json.loads(path.read_text())["status"] for path in self.directory.glob("*/summary.json")]

    def slurm(self, *command: str) -> str:
        environment = os.environ | self.cluster.environment
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def sweep(cluster: LocalSlurm, tmp_path: Path) -> Sweep:
    return Sweep(cluster, tmp_path / "sweep")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def steps(record: Path) -> list[str]:
    return record.read_text().splitlines() if record.exists() else []


def number(run: Path) -> str:
    return str(json.loads((run / "slurm.json").read_text())["job_id"])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_array_whose_jobs_are_requeued_in_the_middle_of_an_epoch(sweep: Sweep, tmp_path: Path) -> None:
    def pace(run: Path) -> float:
        return 0.5 if "pace: 0.5" in (run / "config.yaml").read_text() else 0

    record = f"optimizer.record={tmp_path / 'record'}-${{seed}}-${{optimizer.pace}}"
    process = sweep.start(record, "seed=0,1", "optimizer.pace=0,0.5")
    for seed, command in ((0, ["scancel", "--signal=USR1"]), (1, ["scontrol", "requeue"])):
        wait_until(lambda seed=seed: len(steps(tmp_path / f"record-{seed}-0.5-0")) > STEPS + 2)
        (disturbed,) = [run for run in sweep.runs(seed) if pace(run)]
        sweep.slurm(*command, number(disturbed))
    status, output = ended(process)
    assert status == 0, output
    assert sweep.statuses() == ["done"] * 4
    runs = [*sweep.runs(0), *sweep.runs(1)]
    assert {number(run).split("_")[1] for run in runs} == {"0", "1", "2", "3"}
    assert len({number(run).split("_")[0] for run in runs}) == 1
    for seed in (0, 1):
        disturbed, undisturbed = sorted(sweep.runs(seed), key=pace, reverse=True)
        told = [line.split() for line in steps(tmp_path / f"record-{seed}-0.5-0")]
        assert {starts for starts, _ in told} == {"0", "1"}
        assert [line.split()[1] for line in steps(tmp_path / f"record-{seed}-0-0")] == [digest for _, digest in told]
        state = weights(undisturbed)
        assert all(torch.equal(value, state[name]) for name, value in weights(disturbed).items())


def test_preempted_in_the_middle_of_an_epoch(sweep: Sweep, tmp_path: Path) -> None:
    record = f"optimizer.record={tmp_path / 'record'}-${{optimizer.pace}}"
    process = sweep.start(record, "seed=0", "optimizer.pace=0,0.5")
    wait_until(lambda: len(steps(tmp_path / "record-0.5-0")) > STEPS + 2)
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    sweep.slurm("sbatch", "--wait", *urgent)
    status, output = ended(process)
    assert status == 0, output
    undisturbed, disturbed = ([line.split() for line in steps(tmp_path / f"record-{pace}-0")] for pace in (0, 0.5))
    assert {starts for starts, _ in disturbed} == {"0", "1"}
    assert [digest for _, digest in disturbed] == [digest for _, digest in undisturbed]
    first, second = (weights(run) for run in sweep.runs(0))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_controller_that_is_away_for_a_while(sweep: Sweep, tmp_path: Path) -> None:
    words = ["seed=0,1", f"optimizer.gate={tmp_path / 'gate'}"]
    process = sweep.start(*words)
    wait_until(lambda: ranks(sweep))
    sweep.cluster.stop_controller()
    try:
        status, output = ended(sweep.start(*words))
        assert status == 2, output
        assert output.splitlines()[-1] == "error: Slurm does not answer (squeue); try again later"
        status, output = ended(Sweep(sweep.cluster, tmp_path / "other").start("seed=0"))
        assert status == 2, output
        assert output.splitlines()[-1].startswith("error: Slurm does not answer"), output
    finally:
        sweep.cluster.start_controller()
    (tmp_path / "gate").touch()
    status, output = ended(process)
    assert status == 0, output
    assert "Slurm does not answer; waiting for it" in output
    assert sweep.statuses() == ["done"] * 2


def test_ranks_on_two_nodes_agree_on_gradients_and_fail_together(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = 'hydra.launcher.executor.setup=["export MASTER_ADDR=127.0.0.1","export GLOO_SOCKET_IFNAME=lo"]'
    monkeypatch.setattr(sweep, "environment", lambda: {k: sweep.cluster.environment[k] for k in ("SLURM_CONF", "PATH")})
    record = f"optimizer.record={tmp_path / 'record'}-${{optimizer.end}}"
    _, output = ended(sweep.start("trainer=ddp_cpu", "trainer.num_nodes=2", setup, record, "optimizer.end=null,raise"))
    assert sorted(sweep.statuses()) == ["done", "failed"], output
    log = next((sweep.directory / "slurm").glob("*_3_log.out")).read_text()
    assert "node=1(2), global_rank=3(4)" in log
    told = [steps(tmp_path / f"record-None-{rank}") for rank in range(4)]
    assert len(told[0]) == STEPS * EPOCHS
    assert told[1:] == told[:1] * 3
    (failed,) = [path for path in sweep.directory.glob("*/summary.json") if '"failed"' in path.read_text()]
    assert "the planted error" in failed.read_text()  # of the last rank, though the first was ended because of it


def test_jobs_that_crash_leave_the_others_alone(sweep: Sweep) -> None:
    status, output = ended(sweep.start("seed=0", "optimizer.end=null,raise,kill"))
    assert status == 1, output
    assert sorted(sweep.statuses()) == ["done", "failed"]
    assert "1 lost" in output  # its table names what left nothing
    assert "the planted error" in output
    assert output.count("\ndone: ") == output.count("\nfailed: ") == output.count("\nended without a summary: ") == 1
    (failed,) = [path.parent for path in sweep.directory.glob("*/summary.json") if "failed" in path.read_text()]
    assert "the planted error" in (failed / "log.txt").read_text()


def test_what_waits_is_cancelled_if_a_failure_is_to_stop_the_sweep(sweep: Sweep) -> None:
    one = ["hydra.launcher.on_error=stop", "hydra.launcher.executor.array_parallelism=1"]
    status, output = ended(sweep.start("optimizer.end=raise,null", "seed=0,1", *one))
    assert status == 1, output
    assert set(sweep.statuses()) == {"failed"}, output  # the second may have started before the first was seen to fail
    cancelled = output.count("\ncancelled: ")
    assert cancelled >= 2
    assert "\nended without a summary: " not in output
    (line,) = [line for line in output.splitlines() if line.startswith("stopped by on_error=stop: ")]
    assert line.endswith(f" did not end well; not run: {cancelled}")


def test_submitted_by_a_process_that_does_not_wait(sweep: Sweep, tmp_path: Path) -> None:
    words = ["seed=0,1", f"optimizer.gate={tmp_path / 'gate'}"]
    status, output = ended(sweep.start(*words, "--detach"))
    assert status == 0, output
    array = number(sweep.runs(0)[0]).split("_")[0]
    assert output.splitlines()[-2:] == [
        f"follow them: symrob status {sweep.directory}",
        f"cancel them: scancel {array}",
    ]

    follower = sweep.start(*words)
    assert follower.stdout is not None
    assert any("in the queue already and not submitted again: 2" in line for line in follower.stdout)
    time.sleep(1)
    follower.send_signal(signal.SIGINT)
    status, output = ended(follower)
    assert (status, "go on without this process" in output) == (130, True), output

    (tmp_path / "gate").touch()
    wait_until(lambda: sweep.statuses() == ["done", "done"])
    for words in (["collect"], ["report", "--output", str(sweep.directory / "report")]):
        status, output = ended(sweep.run(*words, str(sweep.directory)))
        assert status == 0, output
    assert (sweep.directory / "results.csv").read_text().count("done") == 2
    assert {json.loads((run / "slurm.json").read_text())["job_id"] for run in (sweep.runs(0) + sweep.runs(1))} == {
        f"{array}_0",
        f"{array}_1",
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hydra.launcher.executor.partition=nowhere"], "invalid partition specified: nowhere"),
        (["+hydra.launcher.executor.additional_parameters.foo=1"], "unrecognized option '--foo=1'"),
        (["hydra.launcher.executor.gpus_per_node=2"], "trainer.accelerator=cpu"),
    ],
)
def test_what_cannot_run_is_told_in_one_line(sweep: Sweep, words: list[str], told: str) -> None:
    status, output = ended(sweep.start("seed=0", *words))
    assert status == 2
    assert output.splitlines()[-1].startswith("error: ")
    assert told in output.splitlines()[-1]
    assert sweep.slurm("squeue", "--noheader", f"--name={sweep.directory.name}") == ""


def test_fifty_jobs_submitted_twice_at_once_are_fifty(sweep: Sweep) -> None:
    words = ["seed=range(50)", "optimizer.pace=60", "--detach"]
    submitters = [sweep.start(*words) for _ in range(2)]
    assert [ended(process)[0] for process in submitters] == [0, 0]
    numbers = [number(run) for run in sweep.directory.glob("*_seed-*")]
    listed = sweep.slurm("squeue", "--noheader", "--array", "--format=%i").split()
    sweep.slurm("scancel", *{one.split("_")[0] for one in numbers})
    assert len(numbers) == 50
    assert sorted(listed) == sorted(numbers)


def test_killed_while_submitting_and_started_again(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The submitter dies between Slurm's having the jobs and its knowing their numbers."""
    words = ["seed=0,1,2", "optimizer.pace=60", "--detach"]
    words.append("+hydra.launcher.executor.additional_parameters.comment=of this team")
    deadly = tmp_path / "deadly" / "sbatch"
    deadly.parent.mkdir()
    path = sweep.environment()["PATH"]
    deadly.write_text(f'#!/bin/sh\nPATH={path} sbatch "$@"\nkill -9 $PPID\n')
    deadly.chmod(0o755)
    with monkeypatch.context() as patch:
        environment = sweep.environment() | {"PATH": f"{deadly.parent}{os.pathsep}{path}"}
        patch.setattr(sweep, "environment", lambda: environment)
        status, output = ended(sweep.start(*words))
    assert status == -signal.SIGKILL, output
    assert not list(sweep.directory.glob("*/slurm.json"))
    status, output = ended(sweep.start(*words))
    assert status == 0, output
    assert "of a submission that was cut off, cancelled: 3" in output
    listed = sweep.slurm("squeue", "--noheader", "--array", "--format=%i|%k").splitlines()
    numbers = {number(run): run for run in sweep.directory.glob("*_seed-*")}
    try:
        assert sorted(line.partition("|")[0] for line in listed) == sorted(numbers)
        assert all(line.partition("|")[2].startswith("of this team ") for line in listed)
        wait_until(lambda: ranks(sweep))
        process = Path("/proc") / str(ranks(sweep)[0])
        variables = dict(word.split("=", 1) for word in (process / "environ").read_text().split("\0") if "=" in word)
        run = numbers[f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"]
        assert str(run) in (process / "cmdline").read_text()
    finally:
        sweep.slurm("scancel", *{one.split("_")[0] for one in numbers})
    assert not list((sweep.directory / "slurm").glob("*.unrecorded"))


def test_killed_at_random_moments_and_started_again(sweep: Sweep, tmp_path: Path) -> None:
    dice, jobs = random.Random(0), "seed=range(12)"
    status, output = ended(sweep.start(jobs))
    assert status == 0, output
    undisturbed = {run.name.split("_seed-")[1].split("_")[0]: weights(run) for run in sweep.directory.glob("*_seed-*")}
    disturbed = Sweep(sweep.cluster, tmp_path / "disturbed")
    words = [jobs, "optimizer.pace=0.2", "logger=wandb", "logger.wandb.mode=offline"]
    for victim in ("submitter", "rank", "node daemon", "submitter", "rank"):
        process = disturbed.start(*words)
        wait_until(lambda running=process: ranks(disturbed) != [] or running.poll() is not None)
        time.sleep(dice.uniform(0, 6))
        if victim == "rank":
            wait_until(lambda: ranks(disturbed) != [])
            os.kill(dice.choice(ranks(disturbed)), signal.SIGKILL)
        if victim == "node daemon":
            sweep.cluster.kill_node_daemon(1)
            time.sleep(2)
            sweep.cluster.start_node_daemon(1)
        process.kill()
        process.communicate()
    for _ in range(3):  # what a kill has left behind fails once more at most
        status, output = ended(disturbed.start(*words))
        if status == 0:
            break
    assert status == 0, output
    assert disturbed.statuses() == ["done"] * 12
    for run in disturbed.directory.glob("*_seed-*"):
        expected = undisturbed.pop(run.name.split("_seed-")[1].split("_")[0])
        assert all(torch.equal(value, expected[name]) for name, value in weights(run).items()), run
        about = json.loads((run / "provenance.json").read_text())
        assert {path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")} == {about["wandb_id"]}
    assert not undisturbed


def ranks(sweep: Sweep) -> list[int]:
    """Processes of a sweep's jobs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode().split("\0")
            if "symmetry_robustness.runs.main" in words and any(
                word.startswith(str(sweep.directory)) for word in words
            ):
                found.append(int(path.parent.name))
    return found
