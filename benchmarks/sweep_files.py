"""Cost of a sweep to the file system and to the one who plans, watches and collects it; docs/scaling.md has the model.

Everything runs on files alone, in a temporary directory; TMPDIR chooses the file system. Processor seconds are told,
because those of the clock on a shared machine say little; on a network file system the operations cost more than they.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from symmetry_robustness import load_config
from symmetry_robustness.app.collect import collect
from symmetry_robustness.sweeps.plan import PlannedJob
from symmetry_robustness.sweeps.status import sweep_states

JOBS = 1000
RUNNING = 32
# A network of the paper, on as few images as will do, for what is written does not depend on them.
JOB = (
    "model=standard", "data.train_size=256", "data.validation_size=128", "data.test_size=128",
    "robustness.attacks.pgd.steps=1", "callback.num_images=16", "callback.max_share_of_epoch=null",
    "callback.final_num_images=16",
)  # fmt: skip
# Run in the job's process before the job: counts what it opens for writing, and renames, by the file's name.
COUNT = """
import atexit, collections, json, os, runpy, sys
counts, pid = collections.Counter(), os.getpid()
directory, report = sys.argv[1:3]
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int) and arguments[2] & 3:
        path = arguments[0]
    elif event == "os.rename":
        path = str(arguments[1])
    else:
        return
    if os.path.abspath(path).startswith(directory):
        counts[f"{event} {os.path.basename(path)}"] += 1
sys.addaudithook(hook)
def tell():
    if os.getpid() == pid:
        with open(report, "w") as file:
            json.dump(counts, file)
atexit.register(tell)
sys.argv[1:] = [directory]
runpy.run_module("symmetry_robustness.runs.main", run_name="__main__", alter_sys=True)
"""


def run(device: str) -> list[dict[str, float | str]]:
    """Measure one job, and a sweep of a thousand."""
    sys.addaudithook(count_opened)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [*job_rows(root / "job"), *sweep_rows(root / "sweep")]


def job_rows(root: Path) -> list[dict[str, float | str]]:
    """Files, bytes and writes of real jobs of two and four epochs; their difference is two epochs."""
    found = {epochs: real_job(root / str(epochs), epochs) for epochs in (2, 4)}
    (files, size, checkpoints, writes), (more_files, more_size, _, more_writes) = found[2], found[4]
    return [
        {"what": "job, without epochs", "files": 2 * files - more_files, "kB": (2 * size - more_size) / 1000,
         "checkpoints MB": checkpoints / 1e6, "written": 2 * writes - more_writes},
        {"what": "each epoch", "files": (more_files - files) / 2, "kB": (more_size - size) / 2000,
         "checkpoints MB": checkpoints / 1e6, "written": (more_writes - writes) / 2},
    ]  # fmt: skip


def real_job(sweep: Path, epochs: int) -> tuple[int, int, int, int]:
    """Run a job: number of its files, their bytes, those of its checkpoints, and how often a file was written."""
    job = planned(sweep, [*JOB, f"trainer.max_epochs={epochs}"], 0)
    job.write()
    report = sweep / "counts.json"
    command = [sys.executable, "-c", COUNT, str(job.directory), str(report)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    counts = Counter(json.loads(report.read_text()))
    sizes = {path: path.stat().st_size for path in job.directory.rglob("*") if path.is_file()}
    checkpoints = sum(size for path, size in sizes.items() if path.suffix == ".ckpt")
    writes = sum(count for event, count in counts.items() if event.startswith("open ") and "progress.json" not in event)
    return len(sizes), sum(sizes.values()) - checkpoints, checkpoints, writes


def planned(sweep: Path, overrides: list[str], seed: int) -> PlannedJob:
    sweep.mkdir(parents=True, exist_ok=True)
    return PlannedJob(sweep, load_config("train", [*overrides, f"seed={seed}"]), (f"seed={seed}",), ("-m",))


def sweep_rows(sweep: Path) -> list[dict[str, float | str]]:
    """Plan a sweep, let its jobs have left their signs, look at it and collect it."""
    start = time.process_time()
    template = planned(sweep, ["model=standard"], 0)
    composing = time.process_time() - start
    jobs = [PlannedJob(sweep, template.config.copy(), (f"seed={seed}",), ("-m",)) for seed in range(JOBS)]
    for seed, job in enumerate(jobs):
        job.config.seed = seed
    freezing = measured("plan: freeze", lambda: [job.write() for job in jobs])
    files = [path for path in sweep.rglob("*") if path.is_file()]
    freezing |= {"files": len(files), "kB": sum(path.stat().st_size for path in files) / 1000}
    for index, job in enumerate(jobs):
        leave_signs(job.directory, index)
    with contextlib.redirect_stdout(io.StringIO()):
        collecting = measured("collect", lambda: collect(sweep))
    return [
        {"what": "plan: compose one job", "jobs": 1, "processor s": composing},
        freezing,
        measured("status", lambda: sweep_states(sweep)),
        collecting,
    ]


def leave_signs(directory: Path, index: int) -> None:
    """Files that jobs leave: two thirds are done, as many run as nodes are there, some have failed, the rest wait."""
    now = time.time()
    progress: dict[str, Any] = {
        "phase": "training", "epoch": 3, "max_epochs": 200, "step": 1100, "steps": 70000, "images_per_second": 2000.0,
        "metric": {"name": "validation/accuracy", "value": 0.5}, "updated": now, "started": now - 600, "host": "node1",
        "pid": 1, "slurm_job_id": f"1_{index}",
    }  # fmt: skip
    numbers = {f"robust_accuracy.{attack}.linf_{epsilon}": 0.5 for attack in ("fgsm", "pgd") for epsilon in range(15)}
    summary: dict[str, Any] | None = None
    if index < 2 * JOBS // 3:
        summary = {"status": "done", "name": "standard", "seed": index, "clean_accuracy": 0.9, **numbers}
    elif index < 2 * JOBS // 3 + 10:
        summary = {"status": "failed", "error": "CUDA out of memory"}
    elif index >= 2 * JOBS // 3 + 10 + RUNNING:
        return
    (directory / "progress.json").write_text(json.dumps(progress))
    (directory / ".lock").touch()
    if summary is not None:
        (directory / "summary.json").write_text(json.dumps(summary, indent=2))


OPENED: list[int] = [0]


def count_opened(event: str, arguments: tuple[Any, ...]) -> None:
    # Not what is opened by a number, for that is open already.
    OPENED[0] += event in ("open", "os.scandir", "os.listdir") and not isinstance(arguments[0], int)


def measured(what: str, action: Callable[[], Any]) -> dict[str, float | str]:
    """Processor seconds of an action on the whole sweep, and how many files and folders it opened."""
    before, start = OPENED[0], time.process_time()
    action()
    return {"what": what, "jobs": JOBS, "processor s": time.process_time() - start, "opened": OPENED[0] - before}
