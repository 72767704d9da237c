"""The state of a job follows from its files, whatever stands in them."""

import contextlib
import getpass
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.directory import is_done
from symmetry_robustness.sweeps.slurm_queue import SlurmJob, ask_squeue
from symmetry_robustness.sweeps.status import JobState, job_state, sweep_states

LONG_AGO = time.time() - 5000


def write(directory: Path, name: str, content: Any, age: float = 0.0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(content))
    os.utime(directory / name, (time.time() - age,) * 2)


def progress(directory: Path, age: float = 0.0, **fields: Any) -> None:
    now = time.time()
    write(directory, "progress.json", {"updated": now - age, "started": now - age - 50, **fields}, age)


def plan(sweep: Path, name: str, *overrides: str) -> Path:
    write(sweep / "jobs", f"key-{name}.json", {"directory": name, "overrides": overrides})
    (sweep / name).mkdir(exist_ok=True)
    return sweep / name


@contextlib.contextmanager
def lock_held(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that holds the lock, as a job does."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(directory / ".lock")], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder
        holder.kill()


@pytest.mark.parametrize(
    ("status", "expected"), [("done", "done"), ("failed", "failed"), ("interrupted", "interrupted"), (None, "queued")]
)
def test_a_job_without_a_process_is_what_its_summary_says(tmp_path: Path, status: str | None, expected: str) -> None:
    if status:
        write(tmp_path, "summary.json", {"status": status, "error": "loss is nan"})
        progress(tmp_path, age=2)  # it wrote until it ended
    state = job_state(tmp_path)
    assert state.state == expected
    assert state.error == ("loss is nan" if expected in ("failed", "interrupted") else None)


def test_a_fresh_sign_of_life_is_a_running_job_and_an_old_one_a_lost_job(tmp_path: Path) -> None:
    progress(tmp_path, age=20)
    assert job_state(tmp_path).state == "running"
    (tmp_path / "log.txt").write_text("epoch 1/3\nepoch 2/3: \x1b[31mloss\x1b[0m 0.5\n\n")
    progress(tmp_path, age=90)
    lost = job_state(tmp_path)
    assert (lost.state, lost.error, lost.log) == ("lost", "epoch 2/3: loss 0.5", tmp_path / "log.txt")


def test_clocks_of_other_machines_may_be_wrong(tmp_path: Path) -> None:
    write(tmp_path, "progress.json", {"updated": time.time() - 3000}, age=5)  # the writer's clock is late
    assert job_state(tmp_path).state == "running"
    write(tmp_path, "progress.json", {"updated": time.time()}, age=-3000)  # the file server's is early
    assert job_state(tmp_path).state == "running"
    write(tmp_path, "progress.json", {"updated": time.time() + 3000}, age=3000)
    assert job_state(tmp_path).state == "lost"


def test_who_holds_the_lock_runs(tmp_path: Path) -> None:
    with lock_held(tmp_path) as holder:
        assert job_state(tmp_path).state == "running"
        write(tmp_path, "summary.json", {"status": "failed"})  # of an earlier start, not yet removed
        assert job_state(tmp_path).state == "running"
        write(tmp_path, "summary.json", {"status": "done"})
        assert job_state(tmp_path).state == "done"
        (tmp_path / "summary.json").unlink()
        progress(tmp_path, age=90)
        assert job_state(tmp_path).state == "running"
        holder.kill()
        holder.wait()
        assert job_state(tmp_path).state == "lost"


TAKER = """
import fcntl, os, sys
for _ in range(20000):
    lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.close(lock)
"""


def test_looking_keeps_no_job_from_its_lock(tmp_path: Path) -> None:
    progress(tmp_path, age=90)
    with subprocess.Popen([sys.executable, "-c", TAKER, str(tmp_path / ".lock")]) as taker:
        seen = set()
        while taker.poll() is None:
            seen.add(job_state(tmp_path).state)
    assert taker.returncode == 0
    assert seen <= {"lost", "running"}


def test_looking_changes_nothing(tmp_path: Path) -> None:
    progress(tmp_path, age=90)
    (tmp_path / ".lock").touch()
    write(tmp_path, "slurm.json", {"job_id": "7"})

    def content() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()}

    before = content()
    tmp_path.chmod(0o555)
    assert job_state(tmp_path).state == "lost"
    tmp_path.chmod(0o755)
    assert content() == before


TEXTS = [
    "", "{", "[]", "null", "3", "{}", "\udcff",
    '{"status": ["done"], "error": {"a": 1}}',
    '{"epoch": "three", "max_epochs": true, "step": NaN, "steps": 1e999, "metric": {"name": 3}, "updated": []}',
    '{"epoch": 1, "max_epochs": 0, "step": -4, "steps": -1, "metric": ["loss", 1], "started": 1e300, "host": null}',
    '{"metric": {"name": "loss", "value": NaN}, "phase": "\\u001b[2J\\n", "slurm_job_id": 7, "job_id": null}',
]  # fmt: skip
DAMAGE: dict[str, Callable[[Path], Any]] = {
    **{text: partial(Path.write_text, data=text, errors="surrogateescape") for text in TEXTS},
    "a directory": Path.mkdir,
    "a fifo": os.mkfifo,
    "too deep": lambda path: path.write_text("[" * 100_000),
    "too large": lambda path: path.write_text(" " * (2**20 + 1) + "{}"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=range(len(DAMAGE)))
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("summary.json", "failed"),
        ("progress.json", "running"),
        (".lock", "lost"),
        ("slurm.json", "lost"),
        ("log.txt", "lost"),
    ],
)
def test_damage_is_told_and_never_raised(
    tmp_path: Path, name: str, expected: str, damage: Callable[[Path], Any]
) -> None:
    if name != "progress.json":
        progress(tmp_path, age=90)
    damage(tmp_path / name)
    state = job_state(tmp_path)
    assert state.state == expected
    json.dumps(state.as_json(), allow_nan=False)
    assert 0 <= state.fraction_done <= 1
    assert state.remaining is None or state.remaining >= 0
    assert all(word is None or word.isprintable() for word in (state.phase, state.error, state.host))


def test_a_damaged_summary_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"status": "do')
    assert job_state(tmp_path).error == "summary.json is damaged or cannot be read"


WRITER = """
import json, os, sys, time
directory = sys.argv[1]
for step in range(10**9):
    content = {"phase": "training", "step": step, "steps": 10**9, "updated": time.time(), "started": time.time() - 1}
    with open(f"{directory}/unfinished", "w") as file:
        json.dump(content, file)
    os.replace(f"{directory}/unfinished", f"{directory}/progress.json")
    if step == 0:
        print(flush=True)
"""


def test_a_file_is_read_whole_while_it_is_rewritten(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        steps = [job_state(tmp_path).step for _ in range(500)]
        writer.kill()
    assert None not in steps
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]


def test_the_time_left_follows_from_the_pace_of_this_process(tmp_path: Path) -> None:
    def remaining(**fields: Any) -> float | None:
        progress(tmp_path, **fields)
        return job_state(tmp_path).remaining

    assert remaining(step=100, steps=400) == pytest.approx(150)
    assert remaining(step=100, steps=400, first_step=75) == pytest.approx(600)
    assert remaining(epoch=1, max_epochs=5, steps=None) == pytest.approx(200)
    assert remaining(step=400, steps=400) == 0
    assert remaining(step=75, steps=400, first_step=75) is None
    assert remaining(step=0, steps=400) is None
    assert remaining(epoch=1, max_epochs=-1) is None


def test_all_that_a_job_tells_is_kept(tmp_path: Path) -> None:
    metric = {"name": "validation/accuracy", "value": float("nan")}
    progress(
        tmp_path, phase="training", epoch=2, max_epochs=5, step=30, steps=60, images_per_second=12.5, metric=metric,
        host="node7", pid=3, slurm_job_id="123_4",
    )  # fmt: skip
    state = job_state(tmp_path, "abc", ("seed=1",))
    assert (state.key, state.label, state.phase, state.epoch, state.max_epochs) == ("abc", "seed=1", "training", 2, 5)
    assert (state.images_per_second, state.host, state.slurm_id, state.fraction_done) == (12.5, "node7", "123_4", 0.5)
    written = json.loads(json.dumps(state.as_json(), allow_nan=False))
    assert written["metric"] == {"name": "validation/accuracy", "value": None}
    assert written["directory"] == str(tmp_path)


def test_a_sweep_is_its_manifest_and_what_lies_beside(tmp_path: Path) -> None:
    for seed in (10, 9, 1):
        plan(tmp_path, f"run-{seed}", f"seed={seed}")
    write(tmp_path / "run-9", "summary.json", {"status": "done", "clean_accuracy": 0.5})
    plan(tmp_path, "gone", "seed=11").rmdir()
    for name in (
        "jobs/.hidden.json",
        "jobs/key-x.json.123.tmp",
        ".run-2.77/config.yaml",
        "code/a/config.yaml",
        "notes",
    ):
        write((tmp_path / name).parent, Path(name).name, {"directory": "/etc"})
    write(tmp_path / "jobs", "bad.json", {"directory": "../elsewhere"})
    write(tmp_path / "older run", "config.yaml", {})
    states = sweep_states(tmp_path)
    assert [(state.label, state.state) for state in states] == [
        ("bad.json", "lost"), ("older run", "queued"), ("seed=1", "queued"), ("seed=9", "done"), ("seed=10", "queued"),
        ("seed=11", "lost"),
    ]  # fmt: skip
    assert states[3].results == {"status": "done", "clean_accuracy": 0.5}
    assert states[3].key == "key-run-9"
    assert states[5].error == "its run directory is gone"


def test_a_single_run_is_a_sweep_of_one(tmp_path: Path) -> None:
    write(tmp_path / "run", "config.yaml", {})
    assert [state.directory for state in sweep_states(tmp_path / "run")] == [tmp_path / "run"]


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_what_is_no_sweep_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        sweep_states(tmp_path / name)


def submitted(sweep: Path, name: str, job_id: str, age: float = 90.0) -> Path:
    directory = plan(sweep, name, name)
    write(directory, "slurm.json", {"job_id": job_id, "submitted": "2026-01-01T00:00:00"}, age)
    return directory


def test_slurm_is_asked_once_about_jobs_without_a_sign_of_life(tmp_path: Path) -> None:
    submitted(tmp_path, "waits", "5_1")
    submitted(tmp_path, "starts", "5_2")
    submitted(tmp_path, "cancelled", "5_3")
    submitted(tmp_path, "new", "5_4", age=3.0)
    progress(submitted(tmp_path, "requeued", "5_5"), age=90)
    progress(submitted(tmp_path, "killed", "5_6"), age=90)
    progress(submitted(tmp_path, "alive", "5_7"))
    write(submitted(tmp_path, "done", "5_8"), "summary.json", {"status": "done"})
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "5_6_0_log.err").write_text("slurmstepd: error: Detected 1 oom_kill event\n")
    calls: list[set[str]] = []

    def squeue(identifiers: Any) -> dict[str, SlurmJob]:
        calls.append(set(identifiers))
        return {"5_1": SlurmJob(True, "Priority"), "5_2": SlurmJob(False, "None"), "5_5": SlurmJob(True, "BeginTime")}

    states = {state.label: state for state in sweep_states(tmp_path, squeue)}
    assert calls == [{f"5_{index}" for index in range(1, 7)}]
    assert {label: state.state for label, state in states.items()} == {
        "waits": "queued", "starts": "running", "cancelled": "lost", "new": "queued", "requeued": "queued",
        "killed": "lost", "alive": "running", "done": "done",
    }  # fmt: skip
    assert states["waits"].reason == "Priority"
    assert states["killed"].error == "slurmstepd: error: Detected 1 oom_kill event"
    assert "5_3" in (states["cancelled"].error or "")
    unknown = {state.label: state.state for state in sweep_states(tmp_path, lambda identifiers: None)}
    assert (unknown["waits"], unknown["cancelled"], unknown["killed"]) == ("queued", "queued", "lost")


def fake_squeue(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "squeue").chmod(0o755)


def test_squeue_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fake_squeue(
        tmp_path, f'echo "$@" >> {tmp_path}/calls; echo "5_1|PENDING|(Resources)|ours | 1f"; echo "9|RUNNING|None|"'
    )
    known = ask_squeue(["5_1", "5_2", "9"])
    assert known == {"5_1": SlurmJob(True, "(Resources)", "ours | 1f"), "9": SlurmJob(False, "None", "")}
    assert ask_squeue(None) == known
    asked = "--noheader --array --format=%i|%T|%r|%k"
    assert (tmp_path / "calls").read_text() == f"{asked} --jobs=5,9\n{asked} --user={getpass.getuser()}\n"
    fake_squeue(tmp_path, "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert ask_squeue(["5_1"]) == {}
    fake_squeue(tmp_path, "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert ask_squeue(["5_1"]) is None
    fake_squeue(tmp_path, "exec sleep 60")
    assert ask_squeue(["5_1"], timeout=0.2) is None
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert ask_squeue(["5_1"]) is None


def test_a_job_is_what_it_was_planned_as(tmp_path: Path) -> None:
    names = [f"run-{index}" for index in range(30)]
    random.Random(0).shuffle(names)
    for name in names:
        plan(tmp_path, name, name)
    states: list[JobState] = sweep_states(tmp_path)
    assert [state.label for state in states] == [f"run-{index}" for index in range(30)]
    assert all(state.key == f"key-{state.label}" and state.directory == tmp_path / state.label for state in states)


def test_a_process_that_was_killed_here_is_lost_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    progress = {"phase": "training", "updated": time.time(), "host": socket.gethostname(), "pid": process.pid}
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    assert job_state(tmp_path).state == "running"
    process.kill()
    process.wait()
    assert job_state(tmp_path).state == "lost"
    (tmp_path / "progress.json").write_text(json.dumps(progress | {"host": "elsewhere"}))
    assert job_state(tmp_path).state == "running"  # for a minute: what ended there cannot be seen from here


def test_a_run_whose_files_are_cut_off_is_not_done(tmp_path: Path) -> None:
    report, arrays = tmp_path / "robustness" / "test.json", tmp_path / "robustness" / "test.npz"
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    for folder in (report.parent, checkpoint.parent):
        folder.mkdir()
    report.write_text('{"norm": "linf"}')
    np.savez(arrays, labels=np.arange(1000))
    torch.save({"weights": torch.zeros(1000)}, checkpoint)
    write(tmp_path, "summary.json", {"status": "done", "robustness_images": 8})
    assert (job_state(tmp_path).state, is_done(tmp_path)) == ("done", True)
    for path in (report, arrays, checkpoint):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        state = job_state(tmp_path)
        assert (state.state, is_done(tmp_path), state.results) == ("failed", False, None)
        assert state.error == f"{path.relative_to(tmp_path)} is gone or damaged"
        path.write_bytes(whole)
    checkpoint.unlink()  # to save space
    assert is_done(tmp_path)
    arrays.unlink()
    assert job_state(tmp_path).state == "failed"
