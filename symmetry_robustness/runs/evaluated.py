"""The run of a network that was trained elsewhere: an ordinary run directory, made by its first evaluation."""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.data.module import to_float
from symmetry_robustness.errors import UserError
from symmetry_robustness.files import locked
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.runs.directory import (
    CONFIG,
    LOCK,
    PROGRESS,
    ROBUSTNESS,
    SUMMARY,
    create_run,
    first_difference,
    is_done,
    read_config,
)
from symmetry_robustness.runs.exit_status import write_failure, write_outcome
from symmetry_robustness.runs.json_files import read_mapping, write_json
from symmetry_robustness.runs.liveness import is_locked
from symmetry_robustness.runs.provenance import add_environment, add_own_code
from symmetry_robustness.training.throughput import count_flops


@dataclass
class EvaluatedRun:
    """A run without a training.

    Args:
        directory: of the run.
        config: what is frozen there: name, seed, data, model and the digest of the weights.
        command: the argv the user typed.
    """

    directory: Path
    config: DictConfig
    command: list[str]

    def check_place(self) -> None:
        """Check that the directory is free, this very run's, or that of a run without any report.

        Raises:
            UserError: it holds something else.
        """
        if not self.directory.exists():
            return
        if (self.directory / CONFIG).is_file():
            difference = first_difference(read_config(self.directory), self.config)
            if difference is None or (self._is_replaceable() and not is_locked(self.directory / LOCK)):
                return
            raise UserError(f"{self.directory} holds another network ({difference[:200]}); choose another name=…")
        if not self.directory.is_dir() or any(self.directory.iterdir()):
            raise UserError(f"{self.directory} exists and is no run; choose another name=… or output=…")

    def _is_replaceable(self) -> bool:
        """Whether another network's first evaluation failed here, so that the corrected command may take its place."""
        if not (self.directory / CONFIG).is_file() or any((self.directory / ROBUSTNESS).glob("*.json")):
            return False
        config = read_config(self.directory)
        return config.keys() == self.config.keys() and first_difference(config, self.config) is not None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Create the run, lock it while the evaluation runs, and record how it ends if it fails.

        Several processes may share the evaluation; the first one holds the lock.
        """
        try:
            if self._is_replaceable():
                with contextlib.suppress(OSError), locked(self.directory / LOCK):
                    if self._is_replaceable():  # still: another process may have been faster
                        shutil.rmtree(self.directory)
            create_run(self.config, self.directory, self.command)
            add_environment(self.directory)
            add_own_code(self.directory)
        except UserError:  # it exists: an earlier evaluation's, or another process was faster
            self.check_place()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(locked(self.directory / LOCK))
                if not is_done(self.directory):
                    (self.directory / SUMMARY).unlink(missing_ok=True)
                    write_json(self.directory / PROGRESS, _sign_of_life())
            try:
                yield
            except BaseException as error:
                self._record(error)
                raise

    def is_summarized(self, report: RobustnessReport) -> bool:
        """Whether the run is done and its summary has the numbers of its own evaluation."""
        summary = read_mapping(self.directory / SUMMARY) or {}
        numbers = {name: value for name, value in _numbers(report).items() if name != "clean_accuracy"}  # of all images
        # As texts, so that NaN is the same as NaN.
        same = all(json.dumps(summary.get(name)) == json.dumps(value) for name, value in numbers.items())
        return same and is_done(self.directory)

    def finish(self, network: nn.Module, report: RobustnessReport, datamodule: Any, device: torch.device) -> None:
        """Write summary.json, unless it has the numbers of the report.

        Args:
            network: as evaluated.
            report: of the run's own evaluation.
            datamodule: all its test images are classified once.
            device: where the network is.
        """
        if self.is_summarized(report):
            return
        accuracies = test_accuracies(network, datamodule, device)
        summary = {
            "status": "done",
            **{name: self.config[name] for name in ("name", "group", "seed")},
            "data": datamodule.provenance,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            **_numbers(report),
            "clean_accuracy": sum(accuracies.values()) / len(accuracies),
            "test_accuracy": accuracies,
            "test_images": len(datamodule.test_dataloader()[0].split),
            "flops": count_flops(network, datamodule.image_shape),
        }
        write_json(self.directory / SUMMARY, summary)

    def _record(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            write_outcome(self.directory, "interrupted", "interrupted")
        else:
            write_failure(self.directory, error)


def _numbers(report: RobustnessReport) -> dict[str, float]:
    """Part of a report that summary.json has."""
    return {**report.summary(), "robustness_images": len(report)}


def test_accuracies(network: nn.Module, datamodule: Any, device: torch.device) -> dict[str, float]:
    """Accuracy on every test set, by the names under which a training logs them."""
    found = {}
    for name, loader in zip(datamodule.test_names, datamodule.test_dataloader(), strict=True):
        right = total = 0
        for images, labels in loader:
            logits = predict(network, to_float(images.to(device)))
            right, total = right + int((logits.argmax(1).cpu() == labels).sum()), total + len(labels)
        found["test/accuracy" if name == "test" else f"test/{name}/accuracy"] = right / total
    return found


def _sign_of_life() -> dict[str, Any]:
    now = time.time()
    return {"phase": "evaluating", "started": now, "updated": now, "host": socket.gethostname(), "pid": os.getpid()}
