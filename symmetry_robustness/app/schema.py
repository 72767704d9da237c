"""The typed roots of the configuration; what stands below a `_target_` is typed by the class it names."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from symmetry_robustness.errors import UserError


@dataclass
class ComputeConfig:
    """How tensors are laid out and computed, apart from what the Trainer takes itself."""

    precision: str = (
        "auto"  # a precision of the Trainer; auto: bf16-mixed where the device computes in it, else 32-true
    )
    channels_last: bool = True
    compile: bool = False


@dataclass
class CheckpointConfig:
    """Which epoch becomes checkpoints/best.ckpt; last.ckpt is always kept."""

    monitor: str | None = (
        None  # any logged metric, e.g. validation/accuracy or robust/pgd/linf_0.03137; null: no best.ckpt
        # robust/… under a budget: callback.min_images=${callback.num_images} compares epochs on the same images
    )
    mode: str = "max"


@dataclass
class WandbConfig:
    """Where a run is tracked in Weights & Biases."""

    project: str = "symmetry_robustness"
    entity: str | None = None
    mode: str = "online"  # online | offline; offline as well where there is no key or the server does not answer


@dataclass
class LoggerConfig:
    """Trackers beside metrics.csv, which is always written."""

    wandb: WandbConfig | None = None


@dataclass
class CallbackConfig:
    """How often, and on how many images, robustness is evaluated during training and after it."""

    every_n_epochs: int = 1  # the most often; 0: only at the end
    split: str | None = None  # whose images, during training; null: validation, or train where nothing is held out
    num_images: int = 256  # the most, of that split
    min_images: int | None = None  # the least; null: a quarter of num_images
    max_share_of_epoch: float | None = 0.1  # of the training time; kept by fewer images, then epochs; null: no limit
    final_num_images: int = 1000  # of the test set, once at the end, whatever it takes


@dataclass
class TrainConfig:
    """Root of `symrob train`."""

    name: str = ""  # names the run in tables and trackers; empty: the chosen model's name
    title: str = ""  # of the network in reports; empty: that of the chosen file of conf/model, unless `name` is given
    group: str = ""  # runs that belong together; empty: the experiment's name, in a sweep without one its directory's
    tags: list[str] = field(default_factory=list)
    seed: int = 0
    output: str = "outputs"
    resume: str = "never"  # auto: go on with the newest run, or sweep, of the same settings, if there is one
    data: Any = MISSING
    model: Any = MISSING
    objective: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    robustness: Any = MISSING
    callback: CallbackConfig = field(default_factory=CallbackConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    trainer: Any = MISSING
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class EvaluateConfig:
    """Root of `symrob evaluate`."""

    checkpoint: str = MISSING
    output: str = ""  # where the report goes; empty: the folder robustness/ of the checkpoint's run
    name: str = ""  # stem of the report's files; empty: the chosen protocol's name
    seed: int = 0
    trusted: list[str] = field(default_factory=list)  # your own modules, whose classes the checkpoint may name
    data: Any = (
        None  # null: the data set the checkpoint was trained on; without _target_: the same, with these settings
    )
    split: str = "test"
    num_images: int | None = 1000  # null: the whole split
    accelerator: str = "auto"
    compile: bool = False  # torch.compile for gradient attacks; a minute and a C++ compiler, pays where they take many
    shard_size: int | None = None  # images saved together; null: as suits protocol and device
    overwrite: bool = False  # replace a report that is already there
    robustness: Any = MISSING


def register_schemas() -> None:
    """Make the typed roots known to Hydra, under the names `train_schema` and `evaluate_schema`, and the resolver."""
    OmegaConf.register_new_resolver("named_folder", _named_folder, replace=True)
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)


def _named_folder(path: str) -> str:
    """The path itself; an empty one, followed by a slash and more, would be the root of the machine.

    Raises:
        UserError: the path is empty.
    """
    if not path.strip():
        raise UserError("output is empty; name the folder of the runs, as in output=outputs")
    return path
