"""Trains, tests and evaluates one network: `train` is the road map of a run."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger

from symmetry_robustness.attacks.validation import check_network
from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.models import build_network, export
from symmetry_robustness.runs.autotune import Tuned, agreed, computing_in, plain_tuned, read_tuned, tune_training
from symmetry_robustness.runs.directory import CHECKPOINTS, PROGRESS, SUMMARY
from symmetry_robustness.runs.exit_status import write_outcome
from symmetry_robustness.runs.heartbeat import Heartbeat
from symmetry_robustness.runs.json_files import write_json
from symmetry_robustness.runs.preemption import PreemptionCheckpoint
from symmetry_robustness.runs.provenance import PROVENANCE, add_own_code, hardware_name, read_provenance
from symmetry_robustness.runs.ranks import FAREWELL_S, Ranks, is_leader, slurm_environment, started_by_slurm
from symmetry_robustness.runs.resume_state import ResumeState
from symmetry_robustness.runs.settings import check_batches, check_devices, check_outputs, monitor_interval
from symmetry_robustness.runs.signals import Interrupted, Signals
from symmetry_robustness.training import Classifier, RobustnessCallback
from symmetry_robustness.training.checkpoints import (
    INTERRUPTED,
    LAST,
    CheckpointFiles,
    EpochCheckpoint,
    RobustCheckpoint,
    newest_checkpoint,
)
from symmetry_robustness.training.console import EpochLog, progress_bars
from symmetry_robustness.training.metrics_csv import MetricsCSV
from symmetry_robustness.training.sync_batch_norm import SyncedBatchNorm
from symmetry_robustness.training.throughput import ThroughputMonitor, training_cost
from symmetry_robustness.training.wandb_logger import wandb_logger

log = logging.getLogger(__name__)

_PROGRESS_METRICS: Final = ("validation/accuracy", "train/accuracy")


def train(config: DictConfig, directory: Path, signals: Signals) -> dict[str, Any]:
    """Train, test and evaluate one network, from the newest checkpoint if there is one.

    Checkpoints, metrics and reports go to the run directory.

    Returns:
        The summary: status, clean_accuracy on the test set(s), robust accuracies, means of measures, costs.
    """
    check_devices(config.trainer, here=True)
    pl.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    datamodule.setup("test")  # a file that is missing or altered must show before the training, not after it
    classifier = build_classifier(config, datamodule)
    robustness = robustness_callback(config)
    if is_leader():
        add_own_code(directory)
    tuned = settle(config, directory, classifier, datamodule)
    checkpoint, steps = newest_checkpoint(directory / CHECKPOINTS) or (None, 0)
    metrics, files, throughput = MetricsCSV(directory, steps=steps), CheckpointFiles(), ThroughputMonitor()
    heartbeat = Heartbeat(directory / PROGRESS, [config.checkpoint.monitor, *_PROGRESS_METRICS], throughput)
    synced = bool(config.trainer.get("sync_batchnorm"))
    # Called afterwards, because Hydra would take arguments that are dataclasses for configurations.
    trainer: pl.Trainer = instantiate(config.trainer, _partial_=True)(
        default_root_dir=str(directory),
        precision=tuned.settings.precision,
        logger=[metrics, *trackers(config, directory)],
        enable_progress_bar=sys.stdout.isatty(),
        sync_batchnorm=False,  # torch's own does not exist on CPUs
        plugins=[
            files,
            *([SyncedBatchNorm()] if synced else []),
            *([slurm_environment()] if started_by_slurm() else []),
        ],
        callbacks=[
            throughput,
            heartbeat,
            *([instantiate(config.averaging)] if config.get("averaging") else []),
            *([robustness] if robustness else []),
            EpochLog(throughput),
            ResumeState(),
            *progress_bars(),
            *best_checkpoint(config, directory, robustness),
            PreemptionCheckpoint(directory / CHECKPOINTS / INTERRUPTED, signals),
            EpochCheckpoint(directory / CHECKPOINTS, files),
        ],
    )
    if trainer.world_size == 1 or not synced:
        batches = datamodule.train_dataloader()
        check_batches(classifier, datamodule.image_shape, len(batches.split), batches.batch_size, trainer.world_size)
    about = config.name, datamodule.provenance, f"{_parameters(classifier):,}", config.seed, directory
    log.info("%s on %s: %s parameters, seed %d, %s", *about)
    if checkpoint:
        log.info("resumes from %s, after %d steps", checkpoint, steps)
    log.info("computes in %s", tuned.describe())
    with computing_in(tuned.settings.threads), _supervised(trainer, directory, signals, heartbeat):
        only_weights = True if checkpoint else None  # Lightning refuses the question without a checkpoint
        trainer.fit(classifier, datamodule=datamodule, ckpt_path=checkpoint, weights_only=only_weights)
        tested = trainer.test(classifier, datamodule=datamodule, verbose=False)
        summary = summarize(config, datamodule, classifier, tested, robustness)
        summary |= costs(trainer, classifier, datamodule)
        if trainer.is_global_zero:
            signals.waiting = True  # a signal from here on comes too late
            last = directory / CHECKPOINTS / LAST
            for path, error in ((last, files.last_error(last)), (directory / "metrics.csv", metrics.last_error)):
                if error:
                    raise UserError(f"{path} could not be written ({error}); make room and start the job again")
            write_json(directory / SUMMARY, summary)
            log.info("done: clean accuracy %.4f on the whole test set", summary["clean_accuracy"])
            _show(directory)
    return summary


def build_classifier(config: DictConfig, datamodule: Any) -> Classifier:
    """The network to train, with objective, optimiser and schedule.

    Raises:
        UserError: the network does not map images of the data set to logits of its classes.
    """
    classes = config.model.get("num_classes", datamodule.num_classes)
    if classes != datamodule.num_classes:
        raise UserError(f"model.num_classes={classes}, but the data set has {datamodule.num_classes}; leave it out")
    network = build_network(config)
    check_network(network)
    with torch.random.fork_rng(devices=[]):
        for training in (True, False):
            check_outputs(export(network).train(training), torch.zeros(2, *datamodule.image_shape), classes)
    return Classifier(
        network,
        objective=instantiate(config.objective),
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler) if config.scheduler else None,
        num_classes=datamodule.num_classes,
        test_names=datamodule.test_names,
        config=config,
    )


def settle(config: DictConfig, directory: Path, classifier: Classifier, datamodule: Any) -> Tuned:
    """Lay out and compile the network as this job computes; rank 0 decides, and a resumed job computes as before."""

    def read() -> Tuned | None:
        return read_tuned(read_provenance(directory).get("compute"))

    def decide() -> Tuned:
        if not is_leader():
            raise RuntimeError("rank 0 has not said how the network is computed")
        tuned = tune_training(config, classifier, datamodule.batch_size, datamodule.image_shape)
        known = read_provenance(directory)
        write_json(directory / PROVENANCE, known | {"compute": plain_tuned(tuned)}, durable=True)
        return tuned

    tuned = agreed(read, decide, decides=is_leader())
    classifier.lay_out(channels_last=tuned.settings.channels_last)
    if tuned.settings.compile:
        classifier.network.compile()
    return tuned


def robustness_callback(config: DictConfig) -> RobustnessCallback | None:
    """The callback that evaluates `config.robustness`, or None under robustness=none."""
    if not config.robustness:
        return None
    return RobustnessCallback(instantiate(config.robustness, _convert_="all"), **config.callback)


def best_checkpoint(config: DictConfig, directory: Path, robustness: RobustnessCallback | None) -> list[Callback]:
    """The callback that saves best.ckpt, if a metric to choose by is configured."""
    monitor = config.checkpoint.monitor
    if monitor is None:
        return []
    # Saved at the very end of an epoch, after the robustness callback has logged its metrics.
    settings: dict[str, Any] = {"dirpath": directory / CHECKPOINTS, "filename": "best", "enable_version_counter": False}
    settings |= {"monitor": monitor, "mode": config.checkpoint.mode}
    if robustness and robustness.every_n_epochs and monitor in robustness.metric_names:
        return [RobustCheckpoint(robustness, **settings)]
    every, _ = monitor_interval(config, robustness)
    return [ModelCheckpoint(save_on_train_epoch_end=True, every_n_epochs=every, **settings)]


def trackers(config: DictConfig, directory: Path) -> list[Logger]:
    """W&B, if it is configured."""
    if config.logger.wandb is None:
        return []
    return [
        wandb_logger(
            directory=directory,
            run_id=read_provenance(directory)["wandb_id"],
            name=f"{config.name} seed={config.seed}",
            group=config.group,
            job_type=config.name,
            tags=[*config.tags],
            config=OmegaConf.to_container(config),
            **config.logger.wandb,
        )
    ]


def summarize(
    config: DictConfig,
    datamodule: Any,
    classifier: Classifier,
    tested: Sequence[Mapping[str, float]],
    robustness: RobustnessCallback | None,
) -> dict[str, Any]:
    """summary.json: identity, clean accuracies on the whole test set, robustness on its evaluated images."""
    accuracies = {k: v for metrics in tested for k, v in metrics.items() if k.endswith("/accuracy")}
    report = robustness.final_report if robustness else None
    best = robustness.best_report if robustness else None
    return {
        "status": "done",
        "name": config.name,
        "group": config.group,
        "seed": config.seed,
        "data": datamodule.provenance,
        "parameters": _parameters(classifier),
        **(report.summary() if report else {}),
        "clean_accuracy": sum(accuracies.values()) / len(accuracies),
        "test_accuracy": accuracies,
        **({"best": {"epoch": best.provenance["epoch"], **best.summary()}} if best else {}),
        "robustness_images": len(report) if report else 0,
        "test_images": len(datamodule.test_dataloader()[0].split),  # of each test set
    }


def costs(trainer: pl.Trainer, classifier: Classifier, datamodule: Any) -> dict[str, Any]:
    """Costs of the training, and the hardware that its seconds are of."""
    size = min(datamodule.split_size("train"), datamodule.batch_size) // trainer.world_size
    images, labels, _ = datamodule.subset("train", size, datamodule.seed)
    images = images.to(classifier.device).contiguous(memory_format=classifier.memory_format)
    found = training_cost(trainer, classifier.network, classifier.objective, images, labels.to(classifier.device))
    return {**found, "hardware": hardware_name(classifier.device)}


def _parameters(classifier: Classifier) -> int:
    return sum(p.numel() for p in classifier.network.parameters())


@contextlib.contextmanager
def _supervised(trainer: pl.Trainer, directory: Path, signals: Signals, heartbeat: Heartbeat) -> Iterator[None]:
    """Start the other ranks and the heartbeat, and end them; the loss of a rank is the reason of what follows."""

    def end_now(reason: str) -> None:  # although the main thread hangs, waiting for a rank that is gone
        write_outcome(directory, "failed", reason)
        os._exit(1)

    ranks, patience = Ranks(trainer, directory, end_now), FAREWELL_S
    try:
        if trainer.is_global_zero:
            heartbeat.start()
        yield
    except Interrupted:
        patience = 0.0  # all is saved, and ranks in the middle of an evaluation would wait for this process
        raise
    except Exception as error:
        if lost := ranks.lost():
            raise RuntimeError(lost) from error
        raise
    finally:
        signals.waiting = True
        heartbeat.stop()
        ranks.end(patience)


def _show(directory: Path) -> None:
    """Print the numbers of a run that is done, whatever has become of the terminal."""
    try:
        from symmetry_robustness.reporting.tables import show_run  # pandas, which no training needs to wait for

        show_run(directory)
    except (Exception, SystemExit) as error:
        log.warning("the results cannot be shown (%s)", one_line(error))
