"""Settings that a job refuses before its run directory is created; torch is imported where one of them needs it."""

import copy
import inspect
import os
import warnings
from typing import TYPE_CHECKING, Any, Final

from hydra.utils import instantiate
from omegaconf import DictConfig

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.runs.exit_status import user_message

if TYPE_CHECKING:
    from torch import Tensor, nn

    from symmetry_robustness.training import Classifier, RobustnessCallback

# Settings of the Trainer that follow from others, or that resuming and reporting rely on.
_OWN: Final = ("callbacks", "default_root_dir", "enable_progress_bar", "logger", "plugins", "precision")
# Settings of the Trainer that leave out images, and what to choose instead.
_SIZES: Final = "data.train_size, data.test_size, trainer.max_epochs or trainer.max_steps"
_CUTS: Final = {
    **dict.fromkeys(("fast_dev_run", "overfit_batches", "max_time", "barebones"), _SIZES),
    "limit_train_batches": "data.train_size",
    "limit_val_batches": "data.validation_size=0",
    "limit_test_batches": "data.test_size",
}
_INTERVALS: Final = ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval")
_ACCELERATORS: Final = ("auto", "cpu", "gpu", "cuda", "mps")
# Weights stay float32: attacks and exported networks rely on it.
_PRECISIONS: Final = ("auto", "32-true", "bf16-mixed", "16-mixed")


def check_settings(config: DictConfig, *, here: bool) -> None:
    """Refuse settings with which the job could not run, or would report other numbers than their names say.

    Of a machine other than this one (`here`) nothing is known.

    Raises:
        UserError: a setting that is refused.
    """
    trainer = config.trainer
    for name in _OWN:
        if name in trainer:
            remedy = "choose compute.precision" if name == "precision" else "leave it out"
            raise UserError(f"trainer.{name}={trainer[name]} would be overruled by the job; {remedy}")
    for name, choice in _CUTS.items():
        value = trainer.get(name)
        whole = value == 1.0 and isinstance(value, float) if name.startswith("limit_") else not value
        if value is not None and not whole:
            raise UserError(
                f"trainer.{name}={value} would leave out images that results are named after; "
                f"leave it out, and choose {choice}"
            )
    for name in _INTERVALS:
        if trainer.get(name, 1) == 0:
            raise UserError(f"trainer.{name} must be at least 1, got 0; leave it out")
    if trainer.get("max_epochs") is not None and isinstance(trainer.max_epochs, int) and trainer.max_epochs < 1:
        raise UserError(
            f"trainer.max_epochs must be at least 1, got {trainer.max_epochs}; "
            "robustness of a checkpoint: symrob evaluate"
        )
    if trainer.get("max_epochs") is None and trainer.get("max_steps", -1) == -1:
        raise UserError("trainer.max_epochs=null sets no end; choose a number, or +trainer.max_steps=… beside it")
    if trainer.get("max_steps") == 0:
        raise UserError("trainer.max_steps=0 leaves the network untrained; leave it out, or choose at least 1")
    if str(config.compute.precision) not in _PRECISIONS:
        raise UserError(f"compute.precision must be one of {', '.join(_PRECISIONS)}, got {config.compute.precision}")
    if config.checkpoint.mode not in ("min", "max"):
        raise UserError(f"checkpoint.mode must be min or max, got {config.checkpoint.mode!r}")
    check_devices(trainer, here=here)


def check_devices(trainer: DictConfig, *, here: bool) -> None:
    """Refuse devices that do not exist.

    Raises:
        UserError: a number of devices or an accelerator that cannot be.
    """
    accelerator, devices = trainer.get("accelerator", "auto"), trainer.get("devices", "auto")
    if accelerator not in _ACCELERATORS:
        raise UserError(f"trainer.accelerator must be one of {', '.join(_ACCELERATORS)}, got {accelerator}")
    nodes = trainer.get("num_nodes", 1)
    if here and nodes > 1 and not {"MASTER_ADDR", "SLURM_PROCID"} & os.environ.keys():
        raise UserError(
            f"trainer.num_nodes={nodes} would wait for ranks that nobody starts; choose hydra/launcher=slurm and -m"
        )
    count = device_count(devices)
    if count == 0:
        raise UserError(f"trainer.devices={devices} leaves nothing to compute on; the least is trainer.devices=1")
    on_cpu = accelerator == "cpu"
    if here and accelerator in ("gpu", "cuda", "auto"):
        import torch

        if accelerator == "auto":
            on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
        elif not torch.cuda.is_available():
            raise UserError(f"trainer.accelerator={accelerator}, but no CUDA device is found; use trainer=cpu")
    if on_cpu and devices != "auto" and str(devices) != str(count):
        raise UserError(f"trainer.devices={devices} is no number of processes on a CPU; two are trainer.devices=2")


def device_count(devices: Any) -> int | None:
    """Number of devices in Lightning's notation, such as 2, "2", "0,3" or [0, 3]; None for all there are.

    Raises:
        UserError: no such notation.
    """
    if devices in ("auto", "-1", -1):
        return None
    if isinstance(devices, int) or (isinstance(devices, str) and devices.isdecimal()):
        return int(devices)
    if isinstance(devices, str) and "," not in devices:
        raise UserError(f"trainer.devices={devices} is no number of devices; set a number, or -1 for all")
    return len([part for part in devices.split(",") if part] if isinstance(devices, str) else devices)


def check_objects(config: DictConfig) -> None:
    """Have data module, objective, optimiser and schedule check their settings; nothing is read or trained.

    Args:
        config: of the job, each value checked by its class.

    Raises:
        UserError: one of them refuses its settings, or is something else.
    """
    import torch

    from symmetry_robustness.models import build_network
    from symmetry_robustness.training.schedules import drive

    if not hasattr(instantiate(config.data), "subset"):
        raise UserError(f"data._target_={config.data._target_} is no data module; derive it from ImageDataModule")
    objective = instantiate(config.objective)
    try:
        inspect.signature(getattr(objective, "forward", objective)).bind(None, None, None)
    except TypeError as error:
        raise UserError(
            f"objective._target_={config.objective._target_} must take (network, images, labels): {error}"
        ) from error
    if check_network := getattr(objective, "check_network", None):
        check_network(build_network(config))
    _check_layers(config, getattr(objective, "reads_layers", False))
    _check_second_derivatives(config, getattr(objective, "second_derivatives", None))
    if hasattr(objective, "update") and (batches := config.trainer.get("accumulate_grad_batches", 1)) > 1:
        raise UserError(
            f"trainer.accumulate_grad_batches={batches} leaves no step to each batch, which objective._target_="
            f"{config.objective._target_} updates the weights on; leave it out, and lower data.batch_size"
        )
    if config.get("averaging"):
        instantiate(config.averaging)
    node = config.optimizer
    try:
        optimizer = instantiate(node)([torch.nn.Parameter(torch.zeros(1, 1))])
        idle = any(group["lr"] == 0 for group in optimizer.param_groups)
        if node := config.scheduler:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a step of the schedule before one of the optimiser
                drive(instantiate(node), optimizer, lambda: 100)["scheduler"].step()
    except KeyError:  # it asks the environment for what a job alone has, such as its rank
        return
    except UserError:
        raise
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{node._target_} refuses its settings ({one_line(error)}); correct them") from error
    if idle:
        raise UserError("optimizer.lr=0 leaves the network untrained; choose a positive one")


def _check_layers(config: DictConfig, read: bool) -> None:
    """Refuse a compiled network, whose layers are not called one by one, for an objective that reads them."""
    if read and config.compute.compile:
        raise UserError(
            f"objective._target_={config.objective._target_} reads layers, which a compiled network does not show; "
            "set compute.compile=false"
        )


def _check_second_derivatives(config: DictConfig, mode: str | None) -> None:
    """Refuse what cannot be differentiated twice, for an objective that does so with the network in a mode."""
    if mode is None:
        return
    reason = f"objective._target_={config.objective._target_} differentiates gradients, which"
    if config.compute.compile:
        raise UserError(f"{reason} a compiled network cannot; set compute.compile=false")
    trainer = config.trainer
    ranks = (device_count(trainer.get("devices", "auto")) or 1) * trainer.get("num_nodes", 1)
    if mode == "training" and ranks > 1 and trainer.get("sync_batchnorm"):
        raise UserError(
            f"{reason} batch norms shared by {ranks} ranks cannot; set trainer.sync_batchnorm=false, or one device"
        )


def check_monitor(config: DictConfig, robustness: "RobustnessCallback | None") -> None:
    """Refuse a `checkpoint.monitor` that cannot choose a checkpoint.

    Raises:
        UserError: a metric that is never measured after an epoch, or one of test images.
    """
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
    every, setting = monitor_interval(config, robustness)
    if every is None:
        raise UserError(f"checkpoint.monitor={monitor} needs a value after an epoch; leave out {setting}=null")
    epochs = config.trainer.get("max_epochs")
    if epochs is not None and 0 < epochs < every:
        raise UserError(
            f"checkpoint.monitor={monitor} is measured every {every} epochs, but trainer.max_epochs={epochs}; "
            f"lower {setting}"
        )


def monitor_interval(config: DictConfig, robustness: "RobustnessCallback | None") -> tuple[int | None, str]:
    """Epochs between two values of `checkpoint.monitor`, None if it has none after an epoch, and the setting for it."""
    kind = config.checkpoint.monitor.partition("/")[0]
    if kind == "robust" and robustness:
        return robustness.every_n_epochs, "callback.every_n_epochs"
    if kind == "validation":
        return config.trainer.get("check_val_every_n_epoch", 1), "trainer.check_val_every_n_epoch"
    return 1, ""


def check_outputs(network: "nn.Module", images: "Tensor", classes: int) -> None:
    """Refuse a network that does not map images of the data set to logits of its classes.

    Args:
        network: in evaluation mode.
        images: (B, C, H, W), a few, on its device.
        classes: of the data set.

    Raises:
        UserError: names what it does instead, and the remedy.
    """
    from symmetry_robustness.attacks.validation import are_probabilities, predict

    try:
        logits = predict(network, images)
    except Exception as error:
        if user_message(error):
            raise
        raise UserError(
            f"the network does not take images of shape {tuple(images.shape)} ({one_line(error)[:200]}); choose data=… "
            "of the size that it was trained on"
        ) from error
    if logits.shape[1] != classes:
        raise UserError(
            f"the network has {logits.shape[1]} classes, the data set {classes}; choose data=… to fit, or "
            "the network's number of classes"
        )
    if are_probabilities(logits):
        raise UserError(
            "the network returns probabilities (rows of numbers from 0 that add up to 1), from which no attack gets a "
            "gradient; return the logits before the softmax"
        )


def check_batches(
    classifier: "Classifier", image_shape: tuple[int, int, int], images: int, batch_size: int, world_size: int
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


def _takes_one_image(classifier: "Classifier", image_shape: tuple[int, int, int]) -> bool:
    import torch

    network, objective = copy.deepcopy((classifier.network, classifier.objective))
    image = torch.zeros(1, *image_shape)
    with torch.random.fork_rng(devices=[]):
        try:
            objective(network.train(), image, torch.zeros(1, dtype=torch.int64))
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                return False
            raise
    return True
