"""Robustness measured during training, without touching it."""

import logging
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.models import export
from symmetry_robustness.reporting.figures import Curve, as_pixels, attack_panel, epsilon_curves
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport, evaluate_robustness
from symmetry_robustness.training.pictures import measure_figures

log = logging.getLogger(__name__)


class RobustnessCallback(pl.Callback):
    """Evaluates robustness on fixed seeded images after every n-th epoch, and on test images at the end.

    Attacks run on an exported copy of the network, draw from their own generators and leave gradients alone, so
    training with and without the callback gives bit-identical weights. Logged as robust/{attack}/{norm}_{epsilon},
    robust/worst_case/…, robust/clean and robust/clever, with which a checkpoint may be chosen. Under DDP each rank
    evaluates its own share, without padding, and the per-example results are gathered.

    Args:
        protocol: attacks, epsilons, CLEVER.
        every_n_epochs: how often; 0 evaluates only at the end.
        num_images: how many images each time: of the validation split, or of the training split where nothing is held
            out, so that no checkpoint is ever chosen by the test set.
        final_num_images: how many images of the test split once at the end.
        seed: chooses the images; the same for all runs, so that networks are compared on the same images.

    Raises:
        UserError: a count that cannot be; before the first epoch, a split with fewer images.
    """

    def __init__(
        self,
        protocol: EvaluationProtocol,
        every_n_epochs: int = 1,
        num_images: int = 256,
        final_num_images: int = 1000,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 0),
            ("num_images", num_images, 1),
            ("final_num_images", final_num_images, 1),
        ):
            if value < least:
                raise UserError(f"callback.{name} must be at least {least}, got {value}")
        self.protocol = protocol
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images
        self.final_num_images = final_num_images
        self.seed = seed
        self.final_report: RobustnessReport | None = None
        self._subsets: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def metric_names(self) -> set[str]:
        """What is logged after an epoch, and can choose a checkpoint."""
        names = {"robust/clean"} | ({"robust/clever"} if self.protocol.clever else set())
        for attack in (*self.protocol.attacks, "worst_case"):
            names |= {f"robust/{attack}/{self.protocol.norm}_{epsilon:.4g}" for epsilon in self.protocol.grid}
        return names

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the images, so that a mistake about them shows before the training and not after it."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        during = "validation" if datamodule.validation_size else "train"
        if self.every_n_epochs:
            self._subsets[during] = datamodule.subset(during, self.num_images, self.seed)
        self._subsets["test"] = datamodule.subset("test", self.final_num_images, self.seed)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate after every n-th epoch; this hook runs outside of inference mode, where gradients can be taken."""
        if not self.every_n_epochs or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        split = next(iter(self._subsets))
        report = self._evaluate(trainer, pl_module, split, f"{split}-epoch={trainer.current_epoch:03d}")
        pl_module.log_dict({f"robust/{name}": value for name, value in flat_metrics(report).items()}, sync_dist=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the weights of the last epoch on the test images."""
        if trainer.interrupted:
            return
        self.final_report = self._evaluate(trainer, pl_module, "test", "test")
        metrics = {f"test/robust/{name}": value for name, value in flat_metrics(self.final_report).items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, split: str, stem: str) -> RobustnessReport:
        start = time.perf_counter()
        images, labels, indices = (tensor[trainer.global_rank :: trainer.world_size] for tensor in self._subsets[split])
        network = export(cast(nn.Module, module.network)).to(module.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        agree(network)
        report = gather(
            evaluate_robustness(
                network, images.to(module.device), labels.to(module.device), self.protocol, indices=indices
            )
        )
        if trainer.is_global_zero:
            report.save(Path(trainer.default_root_dir) / "robustness", stem)
            log.info("%s: %s (%.1f s)", stem, describe(report), time.perf_counter() - start)
            self._show(trainer, report, split)
        return report

    def _show(self, trainer: pl.Trainer, report: RobustnessReport, split: str) -> None:
        """Hand curves, adversarial examples and figures of measures to every logger that keeps pictures."""
        keepers = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
        if not keepers:
            return
        pictures = measure_figures(report)
        if report.broken_at:
            curves = {split: {attack: curve(report, attack) for attack in report.broken_at}}
            pictures["curves"] = epsilon_curves(curves)
            first = np.argsort(report.indices, kind="stable")[: len(report.examples.get("clean", ()))]
            panel = attack_panel(report.examples, {attack: found[first] for attack, found in report.broken_at.items()})
            if panel is not None:
                pictures["examples"] = panel
        for key, figure in pictures.items():
            pixels = as_pixels(figure)
            for logger in keepers:
                logger.log_image(f"robust/{split}/{key}", [pixels], step=trainer.global_step)


def agree(network: nn.Module) -> None:
    """Give every rank the running statistics of rank 0, whose checkpoint is written: DDP lets them drift apart."""
    if distributed.is_available() and distributed.is_initialized():
        for statistics in network.buffers():
            distributed.broadcast(statistics, src=0)


def gather(report: RobustnessReport) -> RobustnessReport:
    """The report over all ranks' shares, the same on every rank."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return report
    shares: list[RobustnessReport | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, report)
    return RobustnessReport.merge([share for share in shares if share is not None])


def flat_metrics(report: RobustnessReport) -> dict[str, float]:
    """The report's scalars under the names they are logged by, e.g. `pgd/linf_0.03137`."""
    names = {"clean_accuracy": "clean"}
    return {
        names.get(key, key.removeprefix("robust_accuracy.").replace(".", "/", 1)): value
        for key, value in report.summary().items()
    }


def curve(report: RobustnessReport, attack: str) -> Curve:
    """Accuracy over epsilon under one attack, beginning with the clean accuracy at 0."""
    estimates = [report.accuracy(attack, epsilon) for epsilon in (0.0, *report.epsilons)]
    values, errors, _ = (np.array(column) for column in zip(*estimates, strict=True))
    return Curve(np.array([0.0, *report.epsilons]), values, errors)


def describe(report: RobustnessReport) -> str:
    """One line: clean accuracy, each attack's at the largest epsilon, CLEVER, and checks that did not pass."""
    words = [f"{len(report)} images, clean {report.clean_accuracy:.3f}"]
    if report.epsilons:
        largest = report.epsilons[-1]
        words += [f"{name} {report.accuracy(name, largest).value:.3f} at {largest:.4g}" for name in report.broken_at]
    if "clever" in (scalars := report.summary()):
        words.append(f"CLEVER {scalars['clever']:.3f}")
    words += [f"{check.status}: {check.name} ({check.evidence})" for check in report.checks if check.status == "failed"]
    return ", ".join(words)
