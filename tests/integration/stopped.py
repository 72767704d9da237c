"""Runs jobs that are stopped by a signal at an exact place: imports once, then forks a process for each of them."""

import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness import load_config
from symmetry_robustness.runs import main as job
from symmetry_robustness.runs.directory import create_run
from symmetry_robustness.training import Classifier, callback
from symmetry_robustness.training.checkpoints import CheckpointFiles, EpochCheckpoint

# What is called there, in one process, so many times.
PLACES: dict[str, tuple[Any, str]] = {
    "batch": (Classifier, "training_step"),
    "validation": (Classifier, "validation_step"),
    "robustness": (callback, "evaluate_robustness"),
    "test": (Classifier, "test_step"),
    "writing": (os, "fsync"),
    "logged": (EpochCheckpoint, "on_train_epoch_start"),
    "saved": (CheckpointFiles, "last_error"),
}


@dataclass(frozen=True)
class Noisy:
    """Cross-entropy of images with noise from the global generator."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(images + 0.01 * torch.randn_like(images))
        return F.cross_entropy(logits, labels), logits


def stop_at(place: str, count: int, number: int, victim: str = "self", repeated: bool = False) -> None:
    """Send a signal before the call of that number; to this process, or to the one that it has started."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), 0

    def counted(*args: Any, **settings: Any) -> Any:
        nonlocal calls
        # Of all that is written, last.ckpt alone is meant.
        calls += place != "writing" or Path(f"/proc/self/fd/{args[0]}").readlink().name.startswith(".last.ckpt.")
        if calls == count:
            if place == "writing":  # half of the file is there
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for _ in range(1 + repeated):
                os.kill(int(children[0]) if victim == "child" else os.getpid(), number)
        return original(*args, **settings)

    setattr(owner, name, counted)


def run(request: dict[str, Any]) -> int:
    directory = Path(request["directory"])
    if not directory.exists():
        create_run(load_config("train", request["overrides"]), directory, ["test"])
    os.environ |= request.get("environment", {})
    output = os.open(directory.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if "largest" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], resource.RLIM_INFINITY))
    if "place" in request:
        words = ("place", "count", "number", "victim", "repeated")
        stop_at(**{word: request[word] for word in words if word in request})
    return job.run_guarded(lambda: job.main([str(directory)]))


def main() -> None:
    """Read a request a line, answer with an exit status, negative if a signal ended the process."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            os.setsid()
            status = 1
            try:
                status = run(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
