"""`python -m symmetry_robustness.app.job RUN_DIRECTORY`: one job from its frozen configuration, on every rank alike."""

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from symmetry_robustness.app.cli import find_mistake, guarded
from symmetry_robustness.app.memory import keep_freed_memory
from symmetry_robustness.errors import UserError
from symmetry_robustness.models import build_network
from symmetry_robustness.reporting.overview import show_run
from symmetry_robustness.sweeps.run_directory import SUMMARY, add_environment, read_config, read_json, write_json
from symmetry_robustness.training import Classifier, RobustnessCallback, tracking
from symmetry_robustness.training.checkpoints import RobustCheckpoint
from symmetry_robustness.training.compute import fastest_precision
from symmetry_robustness.training.console import EpochLog, progress_bars, set_up_logging
from symmetry_robustness.training.cost import TrainingClock, training_cost
from symmetry_robustness.training.metrics_csv import MetricsCSV

log = logging.getLogger("symmetry_robustness.app.job")  # __name__ is __main__ here

# Weights stay float32: attacks and exported networks rely on it.
_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def train(config: DictConfig, directory: Path) -> dict[str, Any]:
    """Train, test and evaluate one network.

    Args:
        config: resolved configuration of `symrob train`.
        directory: the run directory; checkpoints, metrics and reports go there.

    Returns:
        The summary: status, clean_accuracy on the test set(s), robust accuracies, CLEVER, parameters.
    """
    pl.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    datamodule.setup("test")  # a file that is missing or altered must show before the training, not after it
    network = build_network(config)
    if config.model.num_classes != datamodule.num_classes:
        raise UserError(
            f"model.num_classes={config.model.num_classes}, but the data set has {datamodule.num_classes}; leave it out"
        )
    parameters = sum(p.numel() for p in network.parameters())
    log.info(
        "%s on %s: %s parameters, seed %d, %s",
        config.name,
        datamodule.provenance,
        f"{parameters:,}",
        config.seed,
        directory,
    )
    if config.compute.compile:
        network.compile()
    classifier = Classifier(
        network,
        objective=instantiate(config.objective),
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler) if config.scheduler else None,
        num_classes=datamodule.num_classes,
        test_names=datamodule.test_names,
        channels_last=config.compute.channels_last,
        config=config,
    )
    robustness = robustness_callback(config)
    trainer = instantiate(
        config.trainer,
        default_root_dir=str(directory),
        precision=precision(config),
        logger=loggers(config, directory),
        enable_progress_bar=sys.stdout.isatty(),
        callbacks=[
            *checkpoints(config, directory, robustness),
            *([robustness] if robustness else []),
            EpochLog(),
            TrainingClock(),
            *progress_bars(),
        ],
    )
    trainer.fit(classifier, datamodule=datamodule)
    if trainer.interrupted:
        raise KeyboardInterrupt
    tested = trainer.test(classifier, datamodule=datamodule, verbose=False)
    summary = summarize(config, datamodule.provenance, parameters, tested, robustness)
    summary |= training_cost(trainer, network, datamodule.image_shape)
    if trainer.is_global_zero:
        write_json(directory / SUMMARY, summary)
        log.info("done: clean accuracy %.4f on the whole test set", summary["clean_accuracy"])
        show_run(directory)
    return summary


def precision(config: DictConfig) -> str:
    """The Trainer's precision, `auto` resolved for the device at hand.

    Raises:
        UserError: a device is asked for that is not there.
    """
    chosen, accelerator = str(config.compute.precision), config.trainer.get("accelerator", "auto")
    if chosen not in _PRECISIONS:
        raise UserError(f"compute.precision must be one of {', '.join(_PRECISIONS)}, got {chosen}")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={accelerator}, but no CUDA device is found; use trainer=cpu")
    return fastest_precision(accelerator) if chosen == "auto" else chosen


def robustness_callback(config: DictConfig) -> RobustnessCallback | None:
    """The callback that evaluates `config.robustness`, or None under robustness=none."""
    if not config.robustness:
        return None
    return RobustnessCallback(instantiate(config.robustness, _convert_="all"), **config.callback)


def checkpoints(config: DictConfig, directory: Path, robustness: RobustnessCallback | None) -> list[Callback]:
    """last.ckpt after every epoch; best.ckpt as well if a metric to choose by is configured.

    Raises:
        UserError: a metric that cannot choose, or is not measured once.
    """
    folder = directory / "checkpoints"
    # Saved at the very end of an epoch, after the robustness callback has logged what may be monitored.
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    last = ModelCheckpoint(filename="last", save_top_k=1, save_on_train_epoch_end=True, **common)
    monitor = config.checkpoint.monitor
    if monitor is None:
        return [last]
    measured = robustness.metric_names if robustness and robustness.every_n_epochs else set()
    known = {"train/loss", "train/accuracy"} | measured
    known |= {"validation/loss", "validation/accuracy"} if config.data.get("validation_size") else set()
    if monitor not in known:
        raise UserError(f"checkpoint.monitor={monitor} cannot choose; take one of {', '.join(sorted(known))}")
    epochs = config.trainer.get("max_epochs")
    if robustness and monitor in measured and epochs is not None and 0 < epochs < robustness.every_n_epochs:
        raise UserError(
            f"checkpoint.monitor={monitor} is measured every {robustness.every_n_epochs} epochs, but "
            f"trainer.max_epochs={epochs}; lower callback.every_n_epochs"
        )
    common |= {"filename": "best", "monitor": monitor, "mode": config.checkpoint.mode}
    if robustness and monitor in measured:
        return [last, RobustCheckpoint(robustness, **common)]
    return [last, ModelCheckpoint(save_on_train_epoch_end=True, **common)]


def loggers(config: DictConfig, directory: Path) -> list[Logger]:
    """metrics.csv always; W&B where it is configured."""
    made: list[Logger] = [MetricsCSV(directory)]
    if config.logger.wandb is not None:
        made.append(
            tracking.wandb_logger(
                directory=directory,
                run_id=read_json(directory / "provenance.json")["wandb_id"],
                name=f"{config.name} seed={config.seed}",
                group=config.group,
                job_type=config.name,
                tags=[*config.tags],
                config=OmegaConf.to_container(config),  # type: ignore[arg-type]
                **config.logger.wandb,
            )
        )
    return made


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
    """Run the job in the directory named by the one argument; keep a failure's traceback in its log.txt.

    Returns:
        The exit status.
    """
    keep_freed_memory()
    directory = Path((sys.argv[1:] if argv is None else argv)[0])
    leader = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
    config = read_config(directory)
    set_up_logging(directory, leader=leader)
    if leader:
        add_environment(directory)
    status = 1
    try:
        train(config, directory)
        status = 0
    except BaseException as error:
        status = _status(error)
        if leader:
            _keep_failure(directory, error)
        if status < 128:
            raise
    finally:
        tracking.finish(status)
    return status


def _status(error: BaseException) -> int:
    """Exit status: 130 for an interruption, 143 for SIGTERM, 2 for a user's mistake, else 1."""
    if isinstance(error, SIGTERMException):
        return 143
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning turns an interruption into sys.exit
        return 130
    return 2 if find_mistake(error) else 1


def _keep_failure(directory: Path, error: BaseException) -> None:
    """summary.json says failed and why; log.txt gets the traceback, unless the mistake is the user's."""
    mistake = find_mistake(error) if isinstance(error, Exception) else f"ended by a signal ({type(error).__name__})"
    last_line = traceback.format_exception_only(error)[-1].strip()
    write_json(directory / SUMMARY, {"status": "failed", "error": mistake or last_line})
    with (directory / "log.txt").open("a") as file:
        file.write(f"error: {mistake}\n" if mistake else "".join(traceback.format_exception(error)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m symmetry_robustness.app.job RUN_DIRECTORY")
    sys.exit(guarded(main))
