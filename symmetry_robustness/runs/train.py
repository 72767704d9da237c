"""`python -m symmetry_robustness.runs.train RUN_DIRECTORY`: trains one network from its frozen configuration."""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import distributed

from symmetry_robustness.app.cli import guarded
from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.files import remove_unfinished
from symmetry_robustness.models import build_network
from symmetry_robustness.reporting.tables import show_run
from symmetry_robustness.runs.directory import (
    PROGRESS,
    SUMMARY,
    add_environment,
    is_done,
    read_config,
    read_provenance,
    write_json,
)
from symmetry_robustness.runs.exit_status import conclude, keep
from symmetry_robustness.runs.heartbeat import Heartbeat
from symmetry_robustness.runs.malloc import keep_freed_memory
from symmetry_robustness.runs.preemption import (
    REQUEUED,
    Interruption,
    Signals,
    requeue,
    slurm_job,
)
from symmetry_robustness.runs.process import claim, end_with_parent
from symmetry_robustness.runs.ranks import Ranks, is_leader
from symmetry_robustness.runs.resume_state import ExactState
from symmetry_robustness.training import Classifier, RobustnessCallback
from symmetry_robustness.training import wandb_logger as tracking
from symmetry_robustness.training.checkpoints import (
    INTERRUPTED,
    LAST,
    CheckpointFiles,
    EpochCheckpoint,
    RobustCheckpoint,
    newest_checkpoint,
)
from symmetry_robustness.training.compute import fastest_precision
from symmetry_robustness.training.console import EpochLog, progress_bars, set_up_logging
from symmetry_robustness.training.metrics_csv import MetricsCSV
from symmetry_robustness.training.sync_batch_norm import SharedBatchNorm
from symmetry_robustness.training.throughput import TrainingClock, training_cost

log = logging.getLogger("symmetry_robustness.runs.train")  # __name__ is __main__ here

CHECKPOINTS: Final = "checkpoints"
_REQUEUE_S: Final = 30.0

# Settings of the Trainer that follow from others, or that resuming and reporting rely on.
_OWN: Final = ("callbacks", "default_root_dir", "enable_progress_bar", "logger", "plugins", "precision")
# Weights stay float32: attacks and exported networks rely on it.
_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def train(config: DictConfig, directory: Path, signals: Signals) -> dict[str, Any]:
    """Train, test and evaluate one network, from the newest checkpoint on if there is one.

    Args:
        config: resolved configuration of `symrob train`.
        directory: the run directory; checkpoints, metrics and reports go there.
        signals: of this process.

    Returns:
        The summary: status, clean_accuracy on the test set(s), robust accuracies, CLEVER, parameters.
    """
    check_devices(config, here=True)
    pl.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    datamodule.setup("test")  # a file that is missing or altered must show before the training, not after it
    classifier = _classifier(config, datamodule)
    log.info(
        "%s on %s: %s parameters, seed %d, %s",
        config.name,
        datamodule.provenance,
        f"{_parameters(classifier):,}",
        config.seed,
        directory,
    )
    newest = newest_checkpoint(directory / CHECKPOINTS)
    if newest:
        log.info("goes on from %s, after %d steps", *newest)
    robustness, files = robustness_callback(config), CheckpointFiles()
    metrics = MetricsCSV(directory, steps=newest[1] if newest else 0)
    clock, told = TrainingClock(), [config.checkpoint.monitor or "validation/accuracy", "train/accuracy"]
    heartbeat = Heartbeat(directory / PROGRESS, told, clock)
    trainer = instantiate(
        config.trainer,
        default_root_dir=str(directory),
        precision=precision(config),
        logger=[metrics, *trackers(config, directory)],
        enable_progress_bar=sys.stdout.isatty(),
        sync_batchnorm=False,  # torch's own does not exist on CPUs
        plugins=[
            files,
            *([SharedBatchNorm()] if config.trainer.get("sync_batchnorm") else []),
            *([SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []),
        ],
        callbacks=[
            clock,
            heartbeat,
            *([robustness] if robustness else []),
            EpochLog(clock),
            ExactState(),
            *progress_bars(),
            *checkpoints(config, directory, robustness),
            Interruption(directory / CHECKPOINTS / INTERRUPTED, signals),
            EpochCheckpoint(directory / CHECKPOINTS, files),
        ],
    )
    ranks = Ranks(trainer, directory, partial(_give_up, directory))
    try:
        if trainer.is_global_zero:
            heartbeat.start()
        trainer.fit(
            classifier, datamodule=datamodule, ckpt_path=newest and newest[0], weights_only=bool(newest) or None
        )
        tested = trainer.test(classifier, datamodule=datamodule, verbose=False)
        summary = summarize(config, datamodule.provenance, _parameters(classifier), tested, robustness)
        summary |= training_cost(trainer, classifier.network, datamodule.image_shape)
        if trainer.is_global_zero:
            last = directory / CHECKPOINTS / LAST
            signals.waiting = True  # what comes now comes too late
            _finish(directory, summary, {last: files.problem(last), directory / "metrics.csv": metrics.problem})
    except Exception as error:
        if lost := ranks.lost():
            raise RuntimeError(lost) from error
        raise
    finally:
        signals.waiting = True
        heartbeat.stop()
        ranks.end()
    return summary


def _classifier(config: DictConfig, datamodule: Any) -> Classifier:
    """The network that is to be trained, and how."""
    if config.model.num_classes != datamodule.num_classes:
        raise UserError(
            f"model.num_classes={config.model.num_classes}, but the data set has {datamodule.num_classes}; leave it out"
        )
    network = build_network(config)
    if config.compute.compile:
        network.compile()
    return Classifier(
        network,
        objective=instantiate(config.objective),
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler) if config.scheduler else None,
        num_classes=datamodule.num_classes,
        test_names=datamodule.test_names,
        channels_last=config.compute.channels_last,
        config=config,
    )


def _parameters(classifier: Classifier) -> int:
    return sum(p.numel() for p in classifier.network.parameters())


def _finish(directory: Path, summary: dict[str, Any], problems: Mapping[Path, str | None]) -> None:
    """Say that the run is done, unless a file that belongs to it could not be written."""
    for path, problem in problems.items():
        if problem:
            raise UserError(f"{path} could not be written ({problem}); make room and start the job again")
    write_json(directory / SUMMARY, summary)
    log.info("done: clean accuracy %.4f on the whole test set", summary["clean_accuracy"])
    try:
        show_run(directory)
    except (Exception, SystemExit) as error:  # a terminal that is gone, for example: the run is done nevertheless
        log.warning("the results cannot be shown (%s)", one_line(error))


def _give_up(directory: Path, reason: str) -> None:
    """End at once, although the main thread hangs: it waits for a rank that is no more."""
    keep(directory, {"status": "failed", "error": reason}, f"error: {reason}\n")
    os._exit(1)


def refuse_overruled(config: DictConfig) -> None:
    """Refuse settings of the Trainer that the job makes itself.

    Raises:
        UserError: there is one.
    """
    for name in _OWN:
        if name in config.trainer:
            remedy = "choose compute.precision" if name == "precision" else "leave it out"
            raise UserError(f"trainer.{name}={config.trainer[name]} would be overruled by the job; {remedy}")


def check_devices(config: DictConfig, *, here: bool) -> None:
    """Hold the precision and the Trainer's devices against what there is.

    Args:
        config: of the job.
        here: whether it runs on this machine; of another one nothing is known.

    Raises:
        UserError: a precision or number of devices that there cannot be, or a device that is not there.
    """
    chosen, accelerator = str(config.compute.precision), config.trainer.get("accelerator", "auto")
    if chosen not in _PRECISIONS:
        raise UserError(f"compute.precision must be one of {', '.join(_PRECISIONS)}, got {chosen}")
    if here and accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={accelerator}, but no CUDA device is found; use trainer=cpu")
    devices = config.trainer.get("devices", "auto")
    if devices in (0, "0", []):
        raise UserError(f"trainer.devices={devices} leaves nothing to compute on; the least is trainer.devices=1")
    others = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and here and not others)
    number = int(devices) if isinstance(devices, int) or str(devices).isdecimal() else 0
    if on_cpu and devices != "auto" and number < 1:
        raise UserError(f"trainer.devices={devices} is no number of processes on a CPU; two are trainer.devices=2")


def precision(config: DictConfig) -> str:
    """The Trainer's precision, `auto` resolved for the device at hand."""
    chosen = str(config.compute.precision)
    return fastest_precision(config.trainer.get("accelerator", "auto")) if chosen == "auto" else chosen


def robustness_callback(config: DictConfig) -> RobustnessCallback | None:
    """The callback that evaluates `config.robustness`, or None under robustness=none."""
    if not config.robustness:
        return None
    return RobustnessCallback(instantiate(config.robustness, _convert_="all"), **config.callback)


def checkpoints(config: DictConfig, directory: Path, robustness: RobustnessCallback | None) -> list[Callback]:
    """best.ckpt if a metric to choose by is configured.

    Raises:
        UserError: a metric that cannot choose, or is not measured once.
    """
    monitor = config.checkpoint.monitor
    if monitor is None:
        return []
    measured = robustness.metric_names if robustness and robustness.every_n_epochs else set()
    known = {"train/loss", "train/accuracy"} | measured
    known |= {"validation/loss", "validation/accuracy"} if config.data.get("validation_size") else set()
    if monitor not in known:
        raise UserError(f"checkpoint.monitor={monitor} cannot choose; take one of {', '.join(sorted(known))}")
    if monitor in measured and robustness and robustness.split == "test":
        raise UserError(f"checkpoint.monitor={monitor} would choose by test images; leave out callback.split=test")
    if config.checkpoint.mode not in ("min", "max"):
        raise UserError(f"checkpoint.mode must be min or max, got {config.checkpoint.mode!r}")
    epochs = config.trainer.get("max_epochs")
    if robustness and monitor in measured and epochs is not None and 0 < epochs < robustness.every_n_epochs:
        raise UserError(
            f"checkpoint.monitor={monitor} is measured every {robustness.every_n_epochs} epochs, but "
            f"trainer.max_epochs={epochs}; lower callback.every_n_epochs"
        )
    # Saved at the very end of an epoch, after the robustness callback has logged what may be monitored.
    settings: dict[str, Any] = {"dirpath": directory / CHECKPOINTS, "filename": "best", "enable_version_counter": False}
    settings |= {"monitor": monitor, "mode": config.checkpoint.mode}
    if robustness and monitor in measured:
        return [RobustCheckpoint(robustness, **settings)]
    return [ModelCheckpoint(save_on_train_epoch_end=True, **settings)]


def trackers(config: DictConfig, directory: Path) -> list[Logger]:
    """W&B where it is configured."""
    if config.logger.wandb is None:
        return []
    return [
        tracking.wandb_logger(
            directory=directory,
            run_id=read_provenance(directory)["wandb_id"],
            name=f"{config.name} seed={config.seed}",
            group=config.group,
            job_type=config.name,
            tags=[*config.tags],
            config=OmegaConf.to_container(config),  # type: ignore[arg-type]
            **config.logger.wandb,
        )
    ]


def summarize(
    config: DictConfig,
    provenance: str,
    parameters: int,
    tested: list[dict[str, float]],
    robustness: RobustnessCallback | None,
) -> dict[str, Any]:
    """summary.json: identity, clean accuracies on the whole test set, robustness on its evaluated images."""
    accuracies = {k: v for metrics in tested for k, v in metrics.items() if k.endswith("/accuracy")}
    report = robustness.final_report if robustness else None
    scalars = report.summary() if report else {}
    return {
        "status": "done",
        "name": config.name,
        "group": config.group,
        "seed": config.seed,
        "data": provenance,
        "parameters": parameters,
        **scalars,
        "clean_accuracy": sum(accuracies.values()) / len(accuracies),
        "test_accuracy": accuracies,
        "robustness_images": len(report) if report else 0,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the job in the directory named by the one argument, or go on with it; nothing if it is done.

    Returns:
        The exit status: 0; 2 for a user's mistake; 130 or 143 if it was interrupted and can go on; 75 if Slurm was
        asked to see to that.
    """
    keep_freed_memory()
    directory = Path((sys.argv[1:] if argv is None else argv)[0])
    config, leader = read_config(directory), is_leader()
    signals = Signals(leader=leader)
    # Without the first rank there is nothing to save, and nobody to do it for.
    end_with_parent(partial(os.kill, os.getpid(), signal.SIGTERM) if leader else partial(os._exit, 1))
    set_up_logging(directory, leader=leader)
    status, owns = 1, False
    try:
        signals.install()
        if leader:
            claim(directory)
            owns = True  # from here on, and no earlier, what the directory says of the job is this process's business
        if is_done(directory):
            log.info("%s is done already", directory)
            return 0
        if leader:
            remove_unfinished(directory)
            remove_unfinished(directory / CHECKPOINTS)
            (directory / SUMMARY).unlink(missing_ok=True)
            add_environment(directory)
        train(config, directory, signals)
        status = 0
    except BaseException as error:
        signals.waiting = True
        # Any rank may have failed first; once they know each other, the first rank has claimed the directory.
        status = conclude(error, signals, directory if owns or distributed.is_initialized() else None, leader=leader)
        if status == REQUEUED and not leader:
            time.sleep(_REQUEUE_S)  # Slurm ends all ranks of a job when one has ended
        elif status == REQUEUED and not requeue(str(slurm_job())):
            status = 143
        if status == 1 and distributed.is_initialized():
            traceback.print_exc()
            tracking.finish(status)
            os._exit(status)  # Python's own end would wait for ranks that are no more
        if status < REQUEUED:
            raise
    finally:
        tracking.finish(status)
    return status


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m symmetry_robustness.runs.train RUN_DIRECTORY")
    sys.exit(guarded(main))
