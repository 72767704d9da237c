"""Subjects of `symrob evaluate`: a checkpoint of a run, or a network of the user's with weights trained elsewhere."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from symmetry_robustness.app.config import check_targets
from symmetry_robustness.errors import UserError
from symmetry_robustness.models import load_checkpoint, load_weights, require_trusted, wrap
from symmetry_robustness.models.build import instantiate_network
from symmetry_robustness.robustness import RobustnessReport
from symmetry_robustness.runs.directory import CONFIG, ROBUSTNESS
from symmetry_robustness.runs.evaluated import EvaluatedRun

FINAL: Final = "test"  # a run's own evaluation, to the report
_LAST: Final = "last.ckpt"  # the weights of a run, to the report

_TRAINED: Final = ("name", "title", "seed")


class Subject(Protocol):
    """A network to be evaluated, and the place of its report."""

    network: nn.Module
    data: DictConfig
    identity: dict[str, Any]  # all that decides the network's results
    file: str  # of the weights, as the report names it
    trained: dict[str, Any]  # name, title and seed of the training

    def report_path(self, config: DictConfig) -> Path:
        """The JSON file of the report."""

    def is_finished(self) -> bool:
        """Whether nothing is left to do once there is a report."""

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Context of the computation, which begins when every input has been checked."""

    def finish(self, report: RobustnessReport, datamodule: Any, device: torch.device) -> None:
        """Steps after the report is saved."""


class CheckpointSubject:
    """The network of a checkpoint; its report lies in its run.

    Raises:
        UserError: no checkpoint, one that is not trusted, or data that it does not name.
    """

    def __init__(self, config: DictConfig) -> None:
        self.path = Path(config.checkpoint)
        checkpoint = load_checkpoint(self.path, config.trusted)
        self.network, self.file = checkpoint.network, self.path.name
        self.data = choose_data(config, checkpoint.config)
        self.identity = {"checkpoint": checkpoint.digest}
        self.trained = {name: checkpoint.config.get(name) for name in _TRAINED}

    def report_path(self, config: DictConfig) -> Path:
        """In `output`, else in the checkpoint's run, else beside the checkpoint."""
        if config.output:
            return Path(config.output) / f"{config.name}.json"
        folder = self.path.resolve().parent
        if (folder.parent / CONFIG).is_file():
            return folder.parent / ROBUSTNESS / f"{config.name}.json"
        print(f"{self.path} lies in no run directory; its report goes to {folder / ROBUSTNESS}, or to output=…")
        return folder / ROBUSTNESS / f"{config.name}.json"

    def is_finished(self) -> bool:
        """Yes: the run has ended."""
        return True

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Nothing: the run has ended."""
        return contextlib.nullcontext()

    def finish(self, report: RobustnessReport, datamodule: Any, device: torch.device) -> None:
        """Nothing: the run has its summary."""


class NetworkSubject:
    """A network built from the command's `network`, with weights of a file; it becomes a run of its own.

    Args:
        config: of `symrob evaluate`.
        command: the argv the user typed.

    Raises:
        UserError: the network cannot be built, or its weights or normalisation do not fit.
    """

    def __init__(self, config: DictConfig, command: Sequence[str]) -> None:
        own = instantiate_network(config.network, "network", "compare network.… with the signature of that class")
        load_weights(own, config.weights, config.weights_prefix)
        mean, std = (_plain(value) for value in (config.mean, config.std))
        self.network, self.file = wrap(own, mean, std), _LAST
        self.data = config.data.copy()
        if "seed" in self.data:  # as in a training, and so in reports: networks of one seed are compared
            self.data.seed = config.training_seed
        with Path(config.weights).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        network = OmegaConf.to_container(config.network)
        self.identity = {"weights": digest, "network": network, "normalization": {"mean": mean, "std": std}}
        content = {
            **{name: config[name] for name in ("name", "title", "group")},
            "tags": [],
            "seed": config.training_seed,
            "data": self.data,
            "model": network,
            "normalization": self.identity["normalization"],
            "weights": digest,
        }
        seed = f"_seed-{config.training_seed}" if config.training_seed else ""
        directory = Path(config.output or "outputs") / f"{config.name}{seed}"
        self.trained = {name: content[name] for name in _TRAINED}
        self.run = EvaluatedRun(directory, OmegaConf.create(content), [*command])

    def report_path(self, config: DictConfig) -> Path:
        """The run's own evaluation for the first protocol, and one named by the protocol for each other.

        Raises:
            UserError: the directory holds something else.
        """
        self.run.check_place()
        own = self._own_report()
        if not own.exists():
            return own
        protocol = RobustnessReport.load(own).provenance.get("robustness")
        same = protocol == OmegaConf.to_container(config.robustness)
        return own if same else own.with_name(f"{config.protocol}.json")

    def is_finished(self) -> bool:
        """Whether the run has the summary of its own evaluation."""
        own = self._own_report()
        return own.exists() and self.run.is_summarized(RobustnessReport.load(own))

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """The run is created, locked, and shown as running."""
        return self.run.at_work()

    def finish(self, report: RobustnessReport, datamodule: Any, device: torch.device) -> None:
        """Test on all images and write the summary of the run's own evaluation, unless it is there."""
        self.run.finish(self.network, RobustnessReport.load(self._own_report()), datamodule, device)

    def _own_report(self) -> Path:
        return self.run.directory / ROBUSTNESS / f"{FINAL}.json"


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def choose_data(config: DictConfig, trained: Mapping[str, Any]) -> DictConfig:
    """The data set to evaluate on: `config.data`, or the checkpoint's own with the given settings replaced.

    Args:
        config: of `symrob evaluate`.
        trained: configuration inside the checkpoint, as plain containers.

    Raises:
        UserError: the checkpoint names a class that is not trusted, or the class has no such setting.
    """
    given: DictConfig = config.data or OmegaConf.create({})
    if "_target_" in given:
        return given
    own = trained.get("data")
    if not isinstance(own, dict) or "_target_" not in own:
        raise UserError(
            f"checkpoint {config.checkpoint} names no data set in its configuration; choose one with data=…"
        )
    require_trusted(own, "data", ["symmetry_robustness.data"], config.trusted)
    data = OmegaConf.create({**own, **given})
    check_targets(data, "data")
    return data
