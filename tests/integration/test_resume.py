"""Runs that were stopped, by whatever and wherever, end like one that was not."""

import contextlib
import csv
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from symmetry_robustness import load_config
from symmetry_robustness.runs.directory import create_run
from symmetry_robustness.runs.process import JobProcess
from symmetry_robustness.runs.ranks import FAREWELL_S
from symmetry_robustness.training.checkpoints import newest_checkpoint
from tests import fork_server
from tests.waiting import wait_until

HERE = Path(__file__).parent
BATCHES = 6
JOB = [
    "model=standard_4layer",
    f"data.train_size={16 * BATCHES}",
    "data.validation_size=32",
    "data.test_size=32",
    "data.batch_size=16",
    "data.evaluation_batch_size=16",
    "trainer.max_epochs=2",
    "scheduler=cosine",
    "averaging=ema",
]
ATTACKED = [
    "checkpoint.monitor=robust/fgsm/linf_0.01",
    "callback.num_images=8",
    "callback.final_num_images=8",
    "callback.max_share_of_epoch=null",
    "robustness.epsilons=[0.01]",
    "robustness.attacks.pgd.steps=2",
    "robustness.clever=null",
    "robustness.measures={}",
]
# Of an objective; and how the network is computed, which would be measured for every one of them.
NOT_ATTACKED = [
    "checkpoint.monitor=validation/accuracy",
    "robustness=none",
    "compute.precision=32-true",
    "compute.channels_last=true",
]
NOISY = ["objective._target_=tests.integration.stopped.Noisy", "~objective.label_smoothing"]
OBJECTIVES = sorted(path.stem for path in (HERE.parents[1] / "conf" / "objective").glob("*.yaml"))
# The most costly ones of their settings, lowered: how often they compute is not the question.
SHORT = {
    "attribution_guided": ["objective.steps=2", "objective.samples=4"],
    "awp": ["objective.around.steps=2"],
    "free_at": ["objective.replays=2"],
    **{name: ["objective.steps=2"] for name in ("adaptive_features", "hsic_bottleneck", "joint_space", "mart")},
    **{name: ["objective.steps=2"] for name in ("metric_learning", "pgd_at", "trades")},
}
STATUS = {"INT": 130, "TERM": 143, "USR1": 143, "KILL": -9}


@functools.cache
def composed(*words: str) -> DictConfig:
    chosen = NOT_ATTACKED if any(word.startswith("objective=") for word in words) else [*ATTACKED, *NOISY]
    return load_config("train", [*JOB, *chosen, *words])


def run(directory: Path, *words: str, **request: Any) -> int:
    """Run the job of a directory, stopped as asked for; returns its exit status."""
    if not directory.exists():
        create_run(composed(*words), directory, ["test"])
    with directory.with_suffix(".txt").open("ab") as file:
        done = fork_server.run(
            [sys.executable, "-m", "tests.integration.stopped", str(directory), json.dumps(request)],
            cwd=HERE.parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            check=False,
        )
    return done.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has stopped."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert run(directory) == 0, output(directory)
    return directory


def stop(name: str, place: str, count: int = 1) -> dict[str, Any]:
    return {"number": signal.Signals[f"SIG{name}"], "place": place, "count": count}


def output(directory: Path) -> str:
    return directory.with_suffix(".txt").read_text()


def summary(directory: Path) -> Any:
    return json.loads((directory / "summary.json").read_text())


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "robust/share_of_epoch"}  # depends on time
            for row in csv.DictReader(file)
        ]


def tensors(value: Any, path: str = "") -> dict[str, Any]:
    """Everything in a checkpoint that is no container, by its path."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    return (
        {path: value} if pairs is None else {k: v for key, x in pairs for k, v in tensors(x, f"{path}/{key}").items()}
    )


def assert_equal(directory: Path, whole: Path) -> None:
    for name in ("last", "best"):
        ours, theirs = (torch.load(d / "checkpoints" / f"{name}.ckpt", weights_only=True) for d in (directory, whole))
        for part in ("state_dict", "live_weights", "optimizer_states", "lr_schedulers", "global_step"):
            found, expected = tensors(ours[part]), tensors(theirs[part])
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                same = torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
                assert same, f"{name}.ckpt {part}{key}"
        for of_rank, expected_of_rank in zip(ours["ranks"], theirs["ranks"], strict=True):
            torch.testing.assert_close(of_rank.get("objective"), expected_of_rank.get("objective"), rtol=0, atol=0)
    assert rows(directory) == rows(whole)
    ours, theirs = summary(directory), summary(whole)
    timings = [(each.pop("training_seconds"), each.pop("images_per_second")) for each in (ours, theirs)]
    assert all(each.pop("peak_memory") > 2**20 for each in (ours, theirs))
    assert ours == theirs
    assert 0 < timings[0][0] < 100  # counted on, from a clock of the same process
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    reports = {p.name for p in (whole / "robustness").glob("*.json")}
    assert {p.name for p in (directory / "robustness").glob("*.json")} == reports
    if reports:
        best, last = (
            torch.load(whole / "checkpoints" / f"{n}.ckpt", weights_only=True)["epoch"] for n in ("best", "last")
        )
        assert theirs["best"]["epoch"] == best + 1
        assert theirs["best"].keys() - {"epoch"} <= theirs.keys()
        if best == last:
            assert all(
                theirs[name] == value
                for name, value in theirs["best"].items()
                if name not in ("epoch", "clean_accuracy")
            )
    for name in reports:
        summaries = [json.loads((d / "robustness" / name).read_text())["summary"] for d in (directory, whole)]
        assert summaries[0] == summaries[1], name


@pytest.mark.parametrize(
    ("name", "place", "count"),
    [
        ("INT", "batch", 3),
        ("TERM", "batch", BATCHES + 2),
        ("KILL", "batch", BATCHES + 2),
        ("USR1", "batch", 1),
        ("TERM", "batch", BATCHES - 1),
        ("TERM", "batch", BATCHES),
        ("KILL", "batch", 2 * BATCHES),
        ("INT", "validation", 1),
        ("KILL", "validation", 3),
        ("TERM", "robustness", 1),
        ("KILL", "robustness", 2),
        ("INT", "robustness", 3),
        ("KILL", "writing", 1),
        ("KILL", "writing", 2),
        ("KILL", "logged", 2),
        ("KILL", "saved", 1),
        ("TERM", "test", 1),
        ("KILL", "test", 2),
    ],
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    name: str, place: str, count: int, whole: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    assert run(directory, **stop(name, place, count)) == STATUS[name], output(directory)
    if name != "KILL":
        assert summary(directory)["status"] == "interrupted"
    if count > BATCHES or (place, count) == ("writing", 2):
        assert newest_checkpoint(directory / "checkpoints") is not None
    assert run(directory) == 0, output(directory)
    assert_equal(directory, whole)


@pytest.mark.slow
def test_a_run_that_was_stopped_again_and_again(whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    for name, place, count in [
        ("INT", "batch", 2),
        ("TERM", "batch", 2),
        ("KILL", "batch", 2),
        ("INT", "robustness", 1),
        ("KILL", "saved", 1),
        ("TERM", "batch", 3),
        ("USR1", "batch", 1),
        ("KILL", "test", 1),
    ]:
        assert run(directory, **stop(name, place, count)) == STATUS[name], output(directory)
    assert run(directory) == 0, output(directory)
    assert_equal(directory, whole)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_with_any_objective_that_was_stopped_in_the_middle_of_an_epoch(objective: str, tmp_path: Path) -> None:
    words, directory, whole = [f"objective={objective}"], tmp_path / "run", tmp_path / "whole"
    words += SHORT.get(objective, [])
    words += ["model=adaptive_4layer"] if objective == "adaptive_features" else []
    assert run(whole, *words) == 0, output(whole)
    for name, count in [("INT", 3), ("KILL", BATCHES + 1)]:  # the count is of the process
        assert run(directory, *words, **stop(name, "batch", count)) == STATUS[name], output(directory)
    assert run(directory, *words) == 0, output(directory)
    assert_equal(directory, whole)


def test_a_run_that_is_done_is_left_alone(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert run(whole) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("damaged", "place", "count", "goes_on"),
    [("last", "test", 1, None), ("interrupted", "batch", BATCHES + 2, f"last.ckpt, after {BATCHES} steps")],
)
def test_a_damaged_checkpoint_is_named_and_the_other_taken(
    damaged: str, place: str, count: int, goes_on: str | None, whole: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    assert run(directory, **stop("INT", place, count)) == 130
    path = directory / "checkpoints" / f"{damaged}.ckpt"
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    assert run(directory) == 0, output(directory)
    log = (directory / "log.txt").read_text()
    assert f"{path} is damaged and not used" in log
    assert goes_on in log if goes_on else "resumes from" not in log
    assert_equal(directory, whole)


def test_slurm_is_asked_to_run_a_job_again_that_it_has_warned(whole: Path, tmp_path: Path) -> None:
    directory, scontrol = tmp_path / "run", tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\ntest $2 != 8\n")
    scontrol.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    task = path | {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
    assert run(directory, **stop("USR2", "batch", 2), environment=task) == 75, output(directory)
    assert json.loads((directory / "progress.json").read_text())["slurm_job_id"] == "5_2"
    assert run(directory, **stop("USR1", "robustness", 1), environment=path | {"SLURM_JOB_ID": "7"}) == 75
    assert run(directory, **stop("USR1", "batch", 2), environment=path | {"SLURM_JOB_ID": "8"}) == 143  # refused
    assert run(directory, **stop("TERM", "batch", 2), environment=path | {"SLURM_JOB_ID": "7"}) == 143  # not asked
    assert (tmp_path / "asked").read_text() == "requeue 5_2\nrequeue 7\nrequeue 8\n"
    assert run(directory) == 0, output(directory)
    assert_equal(directory, whole)


@pytest.mark.parametrize("largest", [200_000, 1300])  # bytes: no checkpoint; nothing but summary.json and progress.json
def test_what_cannot_be_written_does_not_end_the_training(largest: int, whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert run(directory, **stop("INT", "validation")) == 130
    assert run(directory, largest=largest) in (1, 2)
    assert summary(directory)["status"] == "failed"
    progress = json.loads((directory / "progress.json").read_text())
    assert (progress["epoch"], progress["step"]) == (2, 2 * BATCHES)
    if largest > 10_000:
        assert output(directory).count("last.ckpt cannot be written (File too large)") == 1
        assert "last.ckpt could not be written" in summary(directory)["error"]
        assert rows(directory) == rows(whole)
    assert run(directory) == 0, output(directory)
    assert_equal(directory, whole)


def starts_to_train(directory: Path, seconds: float = 60) -> int:
    """Wait until a job trains; returns its process."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            progress = json.loads((directory / "progress.json").read_text())
            if progress["phase"] == "training" and progress["step"]:
                return int(progress["pid"])
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    raise AssertionError(output(directory))


def processes_of(directory: Path) -> list[int]:
    return fork_server.running("symmetry_robustness.runs.main", str(directory))


@pytest.mark.slow
def test_a_job_saves_itself_when_its_parent_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    small = ["data.train_size=64", "data.validation_size=0", "data.test_size=32", "data.batch_size=16"]
    config = load_config("train", ["model=standard_4layer", "robustness=none", "trainer.max_epochs=100000", *small])
    create_run(config, directory, ["test"])
    parent = "from pathlib import Path; from symmetry_robustness.runs.process import *; JobProcess(Path({!r})).wait()"
    command = [sys.executable, "-c", parent.format(str(directory))]
    with fork_server.Popen(command, stdout=subprocess.DEVNULL) as process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        job = starts_to_train(directory)
        again = [sys.executable, "-m", "symmetry_robustness.runs.main", directory]
        with fork_server.Popen(again, stdout=subprocess.PIPE, text=True) as second:
            stack.callback(second.kill)
            assert second.stdout
            assert "another process runs the job" in second.stdout.readline()
            second.send_signal(signal.SIGINT)
            assert second.wait() == 130
        assert summary_is_absent(directory)  # it was not its job
    wait_until(lambda: not Path(f"/proc/{job}").exists(), 30)
    assert summary(directory) == {"status": "interrupted", "error": "stopped by SIGTERM"}
    assert newest_checkpoint(directory / "checkpoints") is not None
    wait_until(lambda: not processes_of(directory), 5)


def summary_is_absent(directory: Path) -> bool:
    return not (directory / "summary.json").exists()


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert run(directory, **stop("INT", "batch", 2), repeated=True) == 130
    assert summary_is_absent(directory)
    assert not (directory / "checkpoints").exists()


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert run(directory, "trainer=ddp_cpu") == 0, output(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place", "count", "victim", "status"),
    [
        ("INT", "batch", 3, "self", 130),
        ("TERM", "batch", BATCHES + 2, "child", 143),
        ("TERM", "robustness", 2, "self", 143),
        ("KILL", "batch", BATCHES + 3, "child", 1),
        ("KILL", "batch", BATCHES + 3, "self", -9),
    ],
)
def test_two_processes_that_were_stopped_end_like_two_that_were_not(
    name: str, place: str, count: int, victim: str, status: int, whole_of_two: Path, tmp_path: Path
) -> None:
    directory, start = tmp_path / "run", time.monotonic()
    assert run(directory, "trainer=ddp_cpu", **stop(name, place, count), victim=victim) == status, output(directory)
    assert time.monotonic() - start < 60
    if status in (130, 143):  # ranks in the middle of an evaluation wait for the first one, which does not for them
        ended, stopped = ((directory / file).stat().st_mtime for file in ("summary.json", "progress.json"))
        assert ended - stopped < FAREWELL_S
    if status == 1:
        assert summary(directory) == {"status": "failed", "error": "RuntimeError: rank 1 was ended by SIGKILL"}
    wait_until(lambda: not processes_of(directory), 5)
    assert run(directory) == 0, output(directory)
    assert_equal(directory, whole_of_two)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["free_at", "learn_from_past"])
def test_each_process_keeps_a_state_of_its_own(objective: str, tmp_path: Path) -> None:
    words, directory, whole = [f"objective={objective}", "trainer=ddp_cpu"], tmp_path / "run", tmp_path / "whole"
    words += SHORT.get(objective, [])
    assert run(whole, *words) == 0, output(whole)
    assert run(directory, *words, **stop("INT", "batch", 3)) == 130, output(directory)
    found = newest_checkpoint(directory / "checkpoints")
    assert found is not None
    one, other = (tensors(rank["objective"]) for rank in torch.load(found[0], weights_only=True)["ranks"])
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one) == (objective == "learn_from_past")
    assert run(directory, *words) == 0, output(directory)
    assert_equal(directory, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["objective=hsic_bottleneck", "objective.epsilon=8/255", "objective.steps=2"],
        ["objective=metric_learning", "objective.steps=2"],
    ],
    ids=lambda words: words[0],
)
def test_two_processes_whose_objective_reads_layers_resume_in_the_middle_of_an_epoch(
    words: list[str], tmp_path: Path
) -> None:
    words, directory, whole = [*words, "trainer=ddp_cpu"], tmp_path / "run", tmp_path / "whole"
    assert run(whole, *words) == 0, output(whole)
    assert run(directory, *words, **stop("INT", "batch", BATCHES + 3)) == 130, output(directory)
    assert run(directory) == 0, output(directory)
    assert_equal(directory, whole)


def has_imported_torch(process: int) -> bool:
    return "libtorch" in Path(f"/proc/{process}/maps").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "")])
def test_a_command_that_is_stopped_while_it_imports_ends_at_once(
    tmp_path: Path, number: signal.Signals, said: str
) -> None:
    words = ["symmetry_robustness.app.cli", "train", *JOB[1:7], f"hydra.run.dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    wait_until(lambda: has_imported_torch(process.pid))
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert (process.returncode, output) == (130 if said else -number, said)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_of_a_sweep_that_is_stopped_while_it_imports_says_so(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    create_run(load_config("train", JOB[1:7]), tmp_path / "run", ["test"])
    job = JobProcess(tmp_path / "run", output=tmp_path / "output.txt")
    wait_until(lambda: has_imported_torch(job.pid))
    job.send(number)
    assert job.wait() == status
    assert summary_is_absent(tmp_path / "run")  # nothing was done yet
    assert "Traceback" not in (tmp_path / "output.txt").read_text()
