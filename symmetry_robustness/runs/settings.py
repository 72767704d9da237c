"""Settings that a job refuses before its run directory is created."""

from typing import Final

import torch
from omegaconf import DictConfig

from symmetry_robustness.errors import UserError
from symmetry_robustness.training import RobustnessCallback

# Settings of the Trainer that follow from others, or that resuming and reporting rely on.
_OWN: Final = ("callbacks", "default_root_dir", "enable_progress_bar", "logger", "plugins", "precision")
# Weights stay float32: attacks and exported networks rely on it.
_PRECISIONS: Final = ("auto", "32-true", "bf16-mixed", "16-mixed")


def check_settings(config: DictConfig, robustness: RobustnessCallback | None, *, here: bool) -> None:
    """Refuse settings with which the job could not run, or would report other numbers than their names say.

    Args:
        config: of the job.
        robustness: the callback of `config.robustness`.
        here: whether the job runs on this machine; of another one nothing is known.

    Raises:
        UserError: a setting that is refused.
    """
    _check_trainer(config)
    check_devices(config, here=here)
    _check_monitor(config, robustness)


def _check_trainer(config: DictConfig) -> None:
    for name in _OWN:
        if name in config.trainer:
            remedy = "choose compute.precision" if name == "precision" else "leave it out"
            raise UserError(f"trainer.{name}={config.trainer[name]} would be overruled by the job; {remedy}")


def check_devices(config: DictConfig, *, here: bool) -> None:
    """Refuse a precision or devices that do not exist.

    Args:
        config: of the job.
        here: whether it runs on this machine; of another one nothing is known.

    Raises:
        UserError: a precision, number of devices or accelerator that cannot be.
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


def _check_monitor(config: DictConfig, robustness: RobustnessCallback | None) -> None:
    monitor = config.checkpoint.monitor
    if monitor is None:
        return
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
