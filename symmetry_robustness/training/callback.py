"""Robustness measured during training, without touching it."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import pytorch_lightning as pl
import torch
from torch import distributed, nn

from symmetry_robustness.attacks.validation import lay_out
from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.models import export
from symmetry_robustness.models.checkpoint import DAMAGE, PREFIX
from symmetry_robustness.results.names import WORST_CASE, metric_key
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport, evaluate_robustness
from symmetry_robustness.robustness.checks.derived import add_derived_checks
from symmetry_robustness.training import overfitting
from symmetry_robustness.training.best_effort_file import BestEffortFile
from symmetry_robustness.training.budget import Budget
from symmetry_robustness.training.overfitting import Watched
from symmetry_robustness.training.report_logging import describe, flat_metrics, log_report, tracked_name

log = logging.getLogger(__name__)

_FINAL: Final = "test"  # stem of the report at the end


@dataclass(eq=False, repr=False)
class RobustnessCallback(pl.Callback):
    """Evaluates robustness on fixed seeded images after epochs, within a budget of time, and on test images at the end.

    Attacks run on an exported copy of the network, draw from their own generators and leave gradients alone, so
    training with and without the callback gives bit-identical weights. Logged are robust/{attack}/{norm}_{epsilon},
    robust/worst_case/…, robust/clean and robust/{measure} for a measure with a headline, by which a checkpoint may be
    chosen, with robust/images, robust/checks_failed and robust/checks_warned; and after every epoch
    robust/share_of_epoch, the time of all evaluations so far over that of the training without validation. During
    training only the cheap soundness checks run. Where the objective states the threat that it trains against, accuracy
    on fixed training images under one step and under ten is logged, too, and judged by a check. Under DDP each rank
    evaluates a shard, without padding, and the per-example results are gathered; rank 0 decides when and on how many
    images.

    Args:
        protocol: attacks, epsilons, measures.
        every_n_epochs: the highest frequency; 0 evaluates only at the end.
        split: of the images during training: train, validation or test; None for the validation split, or the training
            split if there is none. Test images may be watched, but no checkpoint may be chosen by them.
        num_images: the most images of that split each time; smaller choices are subsets of larger ones.
        min_images: the fewest; None for a quarter of `num_images`.
        max_share_of_epoch: budget of the evaluations during training, as a share of the training time so far, see
            `Budget`; None evaluates `num_images` after every n-th epoch without a limit.
        final_num_images: images of the test split, once at the end, outside of the budget.
        seed: chooses the images; the same for all runs, so that networks are compared on the same images.
        clock: seconds.

    Raises:
        UserError: a count or share out of range; before the first epoch, a split with fewer images.
    """

    protocol: EvaluationProtocol
    every_n_epochs: int = 1
    split: str | None = None
    num_images: int = 256
    min_images: int | None = None
    max_share_of_epoch: float | None = 0.1
    final_num_images: int = 1000
    seed: int = 0
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        share, most = self.max_share_of_epoch, self.num_images
        least = math.ceil(most / 4) if self.min_images is None else self.min_images
        smallest = {"every_n_epochs": 0, "num_images": 1, "min_images": 1, "final_num_images": 1}
        for name, bound in smallest.items():
            if (value := least if name == "min_images" else getattr(self, name)) < bound:
                raise UserError(f"callback.{name} must be at least {bound}, got {value}")
        if least > most:
            raise UserError(f"callback.min_images={least} exceeds callback.num_images={most}; lower the former")
        if share is not None and not 0 < share < math.inf:
            raise UserError(
                f"callback.max_share_of_epoch must be positive, got {share}; null sets no limit, "
                "callback.every_n_epochs=0 leaves only the evaluation at the end"
            )
        if self.split not in (None, "train", "validation", "test"):
            raise UserError(f"callback.split must be train, validation, test or null, got {self.split}")
        if self.protocol.calibration_images:
            raise UserError("detectors are calibrated by `symrob evaluate` alone; leave them out of callback.protocol")
        self.budget = Budget(share, max(1, self.every_n_epochs), least, most)
        self.evaluated_epoch: int | None = None
        self.final_report: RobustnessReport | None = None
        self.best_report: RobustnessReport | None = None
        self._start = self._seconds = 0.0
        self._during = ""

    @property
    def metric_names(self) -> set[str]:
        """Names of the metrics of an evaluated epoch by which a checkpoint can be chosen."""
        protocol, measures = self.protocol, self.protocol.measures.items()
        keys = ["clean_accuracy", *(name for name, measure in measures if getattr(measure, "headline", None))]
        for attack in (*protocol.attacks, WORST_CASE):
            keys += [metric_key(attack, protocol.norm, epsilon) for epsilon in protocol.grid]
        return {f"robust/{tracked_name(key)}" for key in keys}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the images before the training, so that a mistake about them shows at once."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        self._during = self.split or ("validation" if datamodule.validation_size else "train")
        if self.every_n_epochs:
            datamodule.subset(self._during, self.num_images, self.seed, setting="callback.num_images")
            if trainer.is_global_zero:
                log.info("robustness during training: at first %s", self.budget.describe())
        datamodule.subset("test", self.final_num_images, self.seed, setting="callback.final_num_images")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue the clock of an interrupted epoch."""
        self._start = self.clock() - self._seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = self.clock()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Record the training time of the epoch, without the validation after its last batch."""
        self._seconds = self.clock() - self._start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate if the budget allows; this hook runs outside of inference mode, so gradients can be taken."""
        if not self.every_n_epochs:
            return
        start = self.clock()
        self.budget.add_epoch(self._seconds)
        self._revise(trainer)
        size: int = trainer.strategy.broadcast(self.budget.due())
        if size:
            stem = f"{self._during}-epoch={trainer.current_epoch:03d}"
            cheap = replace(self.protocol, checks="cheap")
            watched = self._watch(trainer, pl_module)
            report = self._evaluate(trainer, pl_module, self._during, size, cheap, stem, watched)
            metrics = {f"robust/{name}": value for name, value in flat_metrics(report).items()}
            pl_module.log_dict(metrics | (watched.metrics if watched else {}), sync_dist=True)
            self.evaluated_epoch = trainer.current_epoch
            self.budget.add_evaluation(size, self.clock() - start)
            self._revise(trainer)
        share: float = trainer.strategy.broadcast(self.budget.spent_share)
        pl_module.log("robust/share_of_epoch", share, sync_dist=True)

    def _revise(self, trainer: pl.Trainer) -> None:
        """Update the budget's plan for the remaining epochs, and log a change."""
        last = trainer.max_epochs
        remaining = math.inf if last is None or last < 0 else last - trainer.current_epoch - 1
        if self.budget.revise(remaining) and trainer.is_global_zero:
            log.info("robustness during training: %s", self.budget.describe())

    def state_dict(self) -> dict[str, Any]:
        """Costs of evaluations so far, and the training time of the epoch."""
        return self.budget.state_dict() | {"seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of an earlier part of the run."""
        self.budget.load_state_dict(state_dict)
        self._seconds = state_dict["seconds"]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the weights of the last epoch on the test images, then the checkpoint that was chosen, if any."""
        if trainer.interrupted:
            return
        watched = self._watch(trainer, pl_module) if self.protocol.attacks else None
        size = self.final_num_images
        self.final_report = self._evaluate(trainer, pl_module, "test", size, self.protocol, _FINAL, watched)
        metrics = {f"test/robust/{name}": value for name, value in flat_metrics(self.final_report).items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        choosing = (each for each in trainer.checkpoint_callbacks if getattr(each, "monitor", None))
        found = (getattr(each, "best_model_path", "") for each in choosing)
        if path := next(filter(None, found), ""):
            self.best_report = self._report_best(trainer, pl_module, Path(path))

    def _report_best(self, trainer: pl.Trainer, module: pl.LightningModule, path: Path) -> RobustnessReport | None:
        """The same evaluation of the checkpoint that was chosen; the module keeps its weights."""
        start = self.clock()
        network = cast(nn.Module, module.network)
        try:
            saved = torch.load(path, map_location=module.device, weights_only=True)
        except (*DAMAGE, OSError) as error:
            log.warning("%s cannot be read and is not evaluated (%s)", path, one_line(error))
            return None
        last = {name: value.clone() for name, value in network.state_dict().items()}
        chosen = {name.removeprefix(PREFIX): value for name, value in saved["state_dict"].items()}
        network.load_state_dict({name: chosen[name] for name in last})
        try:
            report = self._report(trainer, module, "test", self.final_num_images, self.protocol)
        finally:
            network.load_state_dict(last)
        report = replace(report, provenance={**report.provenance, "file": path.name, "epoch": saved["epoch"] + 1})
        if trainer.is_global_zero:
            self._save(report, Path(trainer.default_root_dir) / "robustness", path.stem)
            log.info(
                "%s, of epoch %d: %s (%.1f s)", path.name, saved["epoch"] + 1, describe(report), self.clock() - start
            )
        return report

    def _evaluate(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        split: str,
        size: int,
        protocol: EvaluationProtocol,
        stem: str,
        watched: Watched | None,
    ) -> RobustnessReport:
        start = self.clock()
        report = self._report(trainer, module, split, size, protocol)
        if watched:
            report = replace(report, checks=(*report.checks, watched.check))
        if trainer.is_global_zero:
            self._save(report, Path(trainer.default_root_dir) / "robustness", stem)
            log.info("%s: %s (%.1f s)", stem, describe(report), self.clock() - start)
            for check in report.checks:
                if check.status != "passed":
                    log.warning("%s: check %s %s: %s", stem, check.name, check.status, check.evidence)
            log_report(trainer, report, f"robust/{split}")
        return report

    def _watch(self, trainer: pl.Trainer, module: pl.LightningModule) -> Watched | None:
        """Accuracies that show catastrophic overfitting; None where the objective trains on no attacked images."""
        threat = getattr(module.objective, "defends", None)
        if threat is None:
            return None
        size = min(overfitting.IMAGES, trainer.datamodule.split_size("train"))  # type: ignore[attr-defined]
        report = self._report(trainer, module, "train", size, overfitting.protocol(threat, self.seed))
        fgsm, pgd = (report.accuracy(name, threat.epsilon).value for name in ("fgsm", "pgd"))
        return Watched(fgsm, pgd, threat)

    def _report(
        self, trainer: pl.Trainer, module: pl.LightningModule, split: str, size: int, protocol: EvaluationProtocol
    ) -> RobustnessReport:
        """The report of a copy of the network, the same on every rank."""
        subset = trainer.datamodule.subset(split, size, self.seed)  # type: ignore[attr-defined]
        images, labels, indices = (tensor[trainer.global_rank :: trainer.world_size] for tensor in subset)
        network = export(cast(nn.Module, module.network)).to(module.device)
        lay_out(network, images[:2].to(module.device))
        share_statistics(network)
        return gather(
            evaluate_robustness(network, images.to(module.device), labels.to(module.device), protocol, indices=indices),
            protocol,
        )

    def _save(self, report: RobustnessReport, folder: Path, stem: str) -> None:
        """Write the report; only a failure to write the last one ends the job."""
        with BestEffortFile(folder / f"{stem}.json").attempt() if stem != _FINAL else contextlib.nullcontext():
            report.save(folder, stem)


def share_statistics(network: nn.Module) -> None:
    """Give every rank the batch-norm statistics of rank 0, whose checkpoint is written; DDP lets them drift apart."""
    if distributed.is_available() and distributed.is_initialized():
        for statistics in network.buffers():
            distributed.broadcast(statistics, src=0)


def gather(report: RobustnessReport, protocol: EvaluationProtocol) -> RobustnessReport:
    """The report over the shards of all ranks, the same on every rank."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return report
    shards: list[RobustnessReport | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shards, report)
    merged = RobustnessReport.merge([shard for shard in shards if shard is not None])
    return add_derived_checks(merged, protocol.attacks)
