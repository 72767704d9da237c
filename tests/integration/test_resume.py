"""Runs that were stopped, by whatever and wherever, end like one that was not."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

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
    "objective._target_=stopped.Noisy",
    "~objective.label_smoothing",
    "scheduler=cosine",
    "checkpoint.monitor=robust/fgsm/linf_0.01",
    "callback.num_images=8",
    "callback.final_num_images=8",
    "callback.max_share_of_epoch=null",
    "robustness.epsilons=[0.01]",
    "robustness.attacks.pgd.steps=2",
    "robustness.clever=null",
    "robustness.measures={}",
]
STATUS = {"INT": 130, "TERM": 143, "USR1": 143, "KILL": -9}
Run = Callable[..., int]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs the job of a directory, stopped as asked for, and returns its exit status."""
    server = subprocess.Popen(
        [sys.executable, HERE / "stopped.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE
    )

    def ask(directory: Path, *words: str, **request: Any) -> int:
        assert server.stdin
        assert server.stdout
        request |= {"directory": str(directory), "overrides": [*JOB, *words]}
        print(json.dumps(request), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    with server:
        yield ask


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has stopped."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert run(directory) == 0, (directory / "output.txt").read_text()
    return directory


def stop(name: str, place: str, count: int = 1) -> dict[str, Any]:
    return {"signal": signal.Signals[f"SIG{name}"], "place": place, "count": count}


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
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            found, expected = tensors(ours[part]), tensors(theirs[part])
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                same = torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
                assert same, f"{name}.ckpt {part}{key}"
    assert rows(directory) == rows(whole)
    assert json.loads((directory / "summary.json").read_text()) == json.loads((whole / "summary.json").read_text())
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    reports = {p.name for p in (whole / "robustness").glob("*.json")}
    assert {p.name for p in (directory / "robustness").glob("*.json")} == reports
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
    name: str, place: str, count: int, run: Run, whole: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    assert run(directory, **stop(name, place, count)) == STATUS[name], (directory / "output.txt").read_text()
    if name != "KILL":
        assert json.loads((directory / "summary.json").read_text())["status"] == "interrupted"
    assert run(directory) == 0, (directory / "output.txt").read_text()
    assert_equal(directory, whole)
