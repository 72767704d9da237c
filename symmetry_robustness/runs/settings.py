"""Settings that a job refuses before its run directory is created."""

import copy
from typing import Final

import torch
from omegaconf import DictConfig

from symmetry_robustness.errors import UserError
from symmetry_robustness.training import Classifier, RobustnessCallback

# Settings of the Trainer that follow from others, or that resuming and reporting rely on.
_OWN: Final = ("callbacks", "default_root_dir", "enable_progress_bar", "logger", "plugins", "precision")
# Settings of the Trainer that stop training, validation or test before the images are used up.
_CUTS: Final = ("fast_dev_run", "overfit_batches", "max_time", "barebones")
_LIMITS: Final = ("limit_train_batches", "limit_val_batches", "limit_test_batches")
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
    trainer = config.trainer
    for name in _OWN:
        if name in trainer:
            remedy = "choose compute.precision" if name == "precision" else "leave it out"
            raise UserError(f"trainer.{name}={trainer[name]} would be overruled by the job; {remedy}")
    for name in _CUTS:
        if trainer.get(name):
            raise UserError(
                f"trainer.{name}={trainer[name]} would cut loops short, and results would not be of the whole data; "
                "leave it out, and choose data.train_size, data.test_size, trainer.max_epochs or trainer.max_steps"
            )
    for name in _LIMITS:
        if trainer.get(name) not in (None, 1.0) or isinstance(trainer.get(name), int):
            remedy = "data.validation_size=0" if name == "limit_val_batches" else f"data.{name.split('_')[1]}_size"
            raise UserError(
                f"trainer.{name}={trainer[name]} would leave out images that results are named after; "
                f"leave it out, and choose {remedy}"
            )
    if trainer.get("max_steps", -1) == 0:
        raise UserError("trainer.max_steps=0 leaves the network untrained; leave it out, or choose at least 1")


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
    every, setting = monitor_interval(config, robustness)
    if every is None:
        raise UserError(f"checkpoint.monitor={monitor} needs a value after an epoch; leave out {setting}=null")
    epochs = config.trainer.get("max_epochs")
    if epochs is not None and 0 < epochs < every:
        raise UserError(
            f"checkpoint.monitor={monitor} is measured every {every} epochs, but trainer.max_epochs={epochs}; "
            f"lower {setting}"
        )


def monitor_interval(config: DictConfig, robustness: RobustnessCallback | None) -> tuple[int | None, str]:
    """Epochs between two values of `checkpoint.monitor`, None if it has none after an epoch, and the setting for it."""
    kind = config.checkpoint.monitor.partition("/")[0]
    if kind == "robust" and robustness:
        return robustness.every_n_epochs, "callback.every_n_epochs"
    if kind == "validation":
        return config.trainer.get("check_val_every_n_epoch", 1), "trainer.check_val_every_n_epoch"
    return 1, ""


def check_batches(
    classifier: Classifier, image_shape: tuple[int, int, int], images: int, batch_size: int, world_size: int
) -> None:
    """Refuse a batch that gives a rank a single image, if the training cannot take one.

    Torch refuses batch norm over a single value per channel, such as one image at 1×1. One step on a copy decides.

    Args:
        classifier: to be trained; neither it nor any random state is changed.
        image_shape: (C, H, W).
        images: size of the training split.
        batch_size: images per step, summed over all ranks.
        world_size: number of ranks.

    Raises:
        UserError: with the nearest sizes that work.
    """

    def works(images: int, batch_size: int) -> bool:
        batches = [batch_size] * (images >= batch_size) + [images % batch_size] * (images % batch_size >= world_size)
        return bool(batches) and all(1 not in (b // world_size, -(-b // world_size)) for b in batches)

    if works(images, batch_size) or _takes_one_image(classifier, image_shape):
        return
    sizes = [size for size in range(1, images + 1) if works(images, size)]
    near = sorted(sorted(sizes, key=lambda size: abs(size - batch_size))[:2])
    fewer = next((size for size in range(images - 1, 0, -1) if works(size, batch_size)), None)
    remedies = [f"data.batch_size={' or '.join(map(str, near))}"] if near else []
    remedies += [f"data.train_size={fewer}"] if fewer else []
    raise UserError(
        f"data.batch_size={batch_size} cuts {images} training images into a batch with a single image for a process, "
        f"for which batch norm has no variance; choose {', or '.join(remedies) or 'more images'}"
    )


def _takes_one_image(classifier: Classifier, image_shape: tuple[int, int, int]) -> bool:
    network = copy.deepcopy(classifier.network).train()
    image = torch.zeros(1, *image_shape)
    with torch.random.fork_rng(devices=[]):
        try:
            classifier.objective(network, image, torch.zeros(1, dtype=torch.int64))
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                return False
            raise
    return True
