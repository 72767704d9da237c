"""Robustness measured during training, without touching it."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import distributed, nn

from symmetry_robustness.errors import UserError
from symmetry_robustness.models import export
from symmetry_robustness.reporting.figures import Curve, as_pixels, attack_panel, epsilon_curves, measure_figures
from symmetry_robustness.results.checks import count_checks
from symmetry_robustness.results.names import WORST_CASE, metric_key
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport, evaluate_robustness
from symmetry_robustness.robustness.checks.derived import conclude
from symmetry_robustness.training.best_effort_file import BestEffortFile
from symmetry_robustness.training.budget import Budget

log = logging.getLogger(__name__)

_FINAL: Final = "test"  # stem of the report at the end


class RobustnessCallback(pl.Callback):
    """Evaluates robustness on fixed seeded images after epochs, within a budget of time, and on test images at the end.

    Attacks run on an exported copy of the network, draw from their own generators and leave gradients alone, so
    training with and without the callback gives bit-identical weights. Logged as robust/{attack}/{norm}_{epsilon},
    robust/worst_case/…, robust/clean and robust/clever, with which a checkpoint may be chosen; robust/images,
    robust/checks_failed and robust/checks_warned with them, and after every epoch robust/share_of_epoch, the time of
    all evaluations so far over that of the training, validation not counted. During training soundness checks are the
    cheap ones. Under DDP each rank evaluates its own share, without padding, and the per-example results are gathered;
    rank 0 decides when and how much.

    Args:
        protocol: attacks, epsilons, CLEVER.
        every_n_epochs: how often at most; 0 evaluates only at the end.
        split: whose images during training: train, validation or test; None for the validation split, or the training
            split where nothing is held out. Test images may be watched, but no checkpoint may be chosen by them.
        num_images: how many images of that split at most each time. Smaller choices lie in larger ones.
        min_images: how many at least; None for a quarter of `num_images`.
        max_share_of_epoch: budget of the evaluations during training, as a share of the training time so far, see
            `Budget`; None evaluates `num_images` after every n-th epoch, whatever it takes.
        final_num_images: how many images of the test split once at the end, outside of the budget.
        seed: chooses the images; the same for all runs, so that networks are compared on the same images.
        clock: seconds.

    Raises:
        UserError: a count or share that cannot be; before the first epoch, a split with fewer images.
    """

    def __init__(
        self,
        protocol: EvaluationProtocol,
        every_n_epochs: int = 1,
        split: str | None = None,
        num_images: int = 256,
        min_images: int | None = None,
        max_share_of_epoch: float | None = 0.1,
        final_num_images: int = 1000,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        least = math.ceil(num_images / 4) if min_images is None else min_images
        for name, value, smallest in (
            ("every_n_epochs", every_n_epochs, 0),
            ("num_images", num_images, 1),
            ("min_images", least, 1),
            ("final_num_images", final_num_images, 1),
        ):
            if value < smallest:
                raise UserError(f"callback.{name} must be at least {smallest}, got {value}")
        if least > num_images:
            raise UserError(f"callback.min_images={least} exceeds callback.num_images={num_images}; lower the former")
        if max_share_of_epoch is not None and not 0 < max_share_of_epoch < math.inf:
            raise UserError(
                f"callback.max_share_of_epoch must be positive, got {max_share_of_epoch}; null sets no limit, "
                "callback.every_n_epochs=0 leaves only the evaluation at the end"
            )
        if split not in (None, "train", "validation", "test"):
            raise UserError(f"callback.split must be train, validation, test or null, got {split}")
        self.protocol = protocol
        self.split = split
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images
        self.final_num_images = final_num_images
        self.seed = seed
        self.budget = Budget(max_share_of_epoch, max(1, every_n_epochs), least, num_images)
        self.evaluated_epoch: int | None = None
        self.final_report: RobustnessReport | None = None
        self._clock = clock
        self._start = self._seconds = 0.0
        self._during = ""

    @property
    def metric_names(self) -> set[str]:
        """What is logged when an epoch was evaluated, and can choose a checkpoint."""
        protocol, keys = self.protocol, ["clean_accuracy"] + ["clever"] * ("clever" in self.protocol.measures)
        for attack in (*protocol.attacks, WORST_CASE):
            keys += [metric_key(attack, protocol.norm, epsilon) for epsilon in protocol.grid]
        return {f"robust/{tracked_name(key)}" for key in keys}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the images, so that a mistake about them shows before the training and not after it."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        self._during = self.split or ("validation" if datamodule.validation_size else "train")
        if self.every_n_epochs:
            datamodule.subset(self._during, self.num_images, self.seed, setting="callback.num_images")
            if trainer.is_global_zero:
                log.info("robustness during training: at first %s", self.budget.describe())
        datamodule.subset("test", self.final_num_images, self.seed, setting="callback.final_num_images")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on in the middle of an epoch, as if the clock had not been stopped."""
        self._start = self._clock() - self._seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = self._clock()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note how long the epoch has been training, so that the validation after its last batch does not count."""
        self._seconds = self._clock() - self._start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate where the budget allows; this hook runs outside of inference mode, where gradients can be taken."""
        if not self.every_n_epochs:
            return
        start = self._clock()
        self.budget.add_epoch(self._seconds)
        self._revise(trainer)
        size: int = trainer.strategy.broadcast(self.budget.due())
        if size:
            stem = f"{self._during}-epoch={trainer.current_epoch:03d}"
            cheap = replace(self.protocol, checks="cheap")
            report = self._evaluate(trainer, pl_module, self._during, size, cheap, stem)
            metrics = {f"robust/{name}": value for name, value in flat_metrics(report).items()}
            pl_module.log_dict(metrics, sync_dist=True)
            self.evaluated_epoch = trainer.current_epoch
            self.budget.add_evaluation(size, self._clock() - start)
            self._revise(trainer)
        share: float = trainer.strategy.broadcast(self.budget.spent_share)
        pl_module.log("robust/share_of_epoch", share, sync_dist=True)

    def _revise(self, trainer: pl.Trainer) -> None:
        """Let the budget choose anew for the epochs that are left, and say so if the choice has changed."""
        last = trainer.max_epochs
        remaining = math.inf if last is None or last < 0 else last - trainer.current_epoch - 1
        if self.budget.revise(remaining) and trainer.is_global_zero:
            log.info("robustness during training: %s", self.budget.describe())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with: what evaluations cost so far, and how long the epoch has been training."""
        return self.budget.state_dict() | {"seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what an earlier part of the run has learned."""
        self.budget.load_state_dict(state_dict)
        self._seconds = state_dict["seconds"]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the weights of the last epoch on the test images."""
        if trainer.interrupted:
            return
        self.final_report = self._evaluate(trainer, pl_module, "test", self.final_num_images, self.protocol, _FINAL)
        metrics = {f"test/robust/{name}": value for name, value in flat_metrics(self.final_report).items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _evaluate(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        split: str,
        size: int,
        protocol: EvaluationProtocol,
        stem: str,
    ) -> RobustnessReport:
        start = self._clock()
        subset = trainer.datamodule.subset(split, size, self.seed)  # type: ignore[attr-defined]
        images, labels, indices = (tensor[trainer.global_rank :: trainer.world_size] for tensor in subset)
        network = export(cast(nn.Module, module.network)).to(module.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        agree(network)
        report = gather(
            evaluate_robustness(network, images.to(module.device), labels.to(module.device), protocol, indices=indices)
        )
        if trainer.is_global_zero:
            self._save(report, Path(trainer.default_root_dir) / "robustness", stem)
            log.info("%s: %s (%.1f s)", stem, describe(report), self._clock() - start)
            for check in report.checks:
                if check.status != "passed":
                    log.warning("%s: check %s %s: %s", stem, check.name, check.status, check.evidence)
            self._show(trainer, report, split)
            self._show_checks(trainer, report, split)
        return report

    def _save(self, report: RobustnessReport, folder: Path, stem: str) -> None:
        """Write the report; only the last one is worth ending the job for."""
        with BestEffortFile(folder / f"{stem}.json").attempt() if stem != _FINAL else contextlib.nullcontext():
            report.save(folder, stem)

    def _show_checks(self, trainer: pl.Trainer, report: RobustnessReport, split: str) -> None:
        """Hand the checks to every logger that keeps tables."""
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                rows = [[check.name, check.status, check.evidence] for check in report.checks]
                columns = ["check", "status", "evidence"]
                logger.log_table(f"robust/{split}/checks", columns=columns, data=rows, step=trainer.global_step)

    def _show(self, trainer: pl.Trainer, report: RobustnessReport, split: str) -> None:
        """Hand curves, adversarial examples and figures of measures to every logger that keeps pictures."""
        keepers = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
        if not keepers:
            return
        pictures = measure_figures(report)
        if report.minimal_epsilon:
            curves = {split: {attack: curve(report, attack) for attack in report.minimal_epsilon}}
            pictures["curves"] = epsilon_curves(curves)
            first = np.argsort(report.indices, kind="stable")[: len(report.examples.get("clean", ()))]
            panel = attack_panel(
                report.examples, {attack: found[first] for attack, found in report.minimal_epsilon.items()}
            )
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
    merged = RobustnessReport.merge([share for share in shares if share is not None])
    return replace(merged, checks=conclude(merged))


def flat_metrics(report: RobustnessReport) -> dict[str, float]:
    """The report's scalars by their names in trackers, with the number of images and of checks that did not pass."""
    checks = count_checks(report.checks)
    counts = {"images": len(report), "checks_failed": checks["failed"], "checks_warned": checks["warned"]}
    return {tracked_name(key): value for key, value in report.summary().items()} | counts


def tracked_name(key: str) -> str:
    """The name of a summary's key in trackers.

    >>> tracked_name("robust_accuracy.pgd.linf_0.03137"), tracked_name("clean_accuracy")
    ('pgd/linf_0.03137', 'clean')
    """
    return "clean" if key == "clean_accuracy" else key.removeprefix("robust_accuracy.").replace(".", "/", 1)


def curve(report: RobustnessReport, attack: str) -> Curve:
    """Accuracy over epsilon under one attack, beginning with the clean accuracy at 0."""
    estimates = [report.accuracy(attack, epsilon) for epsilon in (0.0, *report.epsilons)]
    values, errors, _ = (np.array(column) for column in zip(*estimates, strict=True))
    return Curve(np.array([0.0, *report.epsilons]), values, errors)


def describe(report: RobustnessReport) -> str:
    """One line: clean accuracy, each attack's at the largest epsilon, CLEVER, and how many checks passed."""
    words = [f"{len(report)} images, clean {report.clean_accuracy:.3f}"]
    if report.epsilons:
        largest = report.epsilons[-1]
        words += [
            f"{name} {report.accuracy(name, largest).value:.3f} at {largest:.4g}" for name in report.minimal_epsilon
        ]
    if "clever" in (scalars := report.summary()):
        words.append(f"CLEVER {scalars['clever']:.3f}")
    counts = [f"{count} {status}" for status, count in count_checks(report.checks).items() if count]
    words.append(f"checks: {', '.join(counts)}")
    return ", ".join(words)
