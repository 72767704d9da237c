"""Runs a job that is stopped by a signal at an exact place: `python -m tests.integration.stopped RUN JSON`."""

import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.runs import main as job
from symmetry_robustness.training import Classifier, callback
from symmetry_robustness.training.checkpoints import CheckpointFiles, EpochCheckpoint
from tests.fork_server import running

# The method that is called there, in one process, so many times.
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


def stop_at(directory: Path, place: str, count: int, number: int, victim: str = "self", repeated: bool = False) -> None:
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
            process = running("symmetry_robustness.runs.main", str(directory))[0] if victim == "child" else os.getpid()
            for _ in range(1 + repeated):
                os.kill(process, number)
        return original(*args, **settings)

    setattr(owner, name, counted)


def main(directory: Path, request: dict[str, Any]) -> int:
    os.environ |= request.pop("environment", {})
    if largest := request.pop("largest", None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if request:
        stop_at(directory, **request)
    return job.run_guarded(lambda: job.main([str(directory)]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
