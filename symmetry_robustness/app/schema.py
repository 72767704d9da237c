"""The typed roots of the configuration; nodes below a `_target_` are typed by its class."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from symmetry_robustness.errors import UserError


@dataclass
class ComputeConfig:
    """Layout and computation of tensors, beyond the Trainer's own settings.

    Settings left open are measured on a few steps of the network when a job starts, as is the number of threads where
    OMP_NUM_THREADS is not set.
    """

    precision: str = "auto"  # of the Trainer; auto: the faster of 32-true and bf16-mixed
    channels_last: bool | None = None  # memory format of images and weights; null: the faster one
    compile: bool | None = None  # torch.compile; null: on a GPU where it is faster, on a CPU not


@dataclass
class CheckpointConfig:
    """The choice of checkpoints/best.ckpt; last.ckpt is always saved."""

    # Any logged metric, e.g. validation/accuracy or robust/pgd/linf_0.03137; null: no best.ckpt. Under a budget
    # callback.min_images=${callback.num_images} compares epochs by robust/… on the same images.
    monitor: str | None = None
    mode: str = "max"


@dataclass
class WandbConfig:
    """The Weights & Biases project of a run."""

    project: str = "symmetry_robustness"
    entity: str | None = None
    mode: str = "online"  # online | offline; without a key or an answer from the server, online runs are offline, too


@dataclass
class LoggerConfig:
    """Trackers beside metrics.csv, which is always written."""

    wandb: WandbConfig | None = None


@dataclass
class CallbackConfig:
    """Frequency and images of robustness evaluations during training and after it."""

    every_n_epochs: int = 1  # the highest frequency; 0: only at the end
    split: str | None = None  # of the images during training; null: validation, or train if there is none
    num_images: int = 256  # the most images of that split
    min_images: int | None = None  # the fewest; null: a quarter of num_images
    max_share_of_epoch: float | None = 0.1  # of the training time; reached by fewer images, then epochs; null: no limit
    final_num_images: int = 1000  # of the test set, once at the end, without a limit


@dataclass
class TrainConfig:
    """Root of `symrob train`."""

    name: str = ""  # names the run in tables and trackers; empty: the chosen model's name
    title: str = ""  # of the network in reports; empty: that of the chosen file of conf/model, unless `name` is given
    group: str = ""  # runs that belong together; empty: the experiment's name, in a sweep without one its directory's
    tags: list[str] = field(default_factory=list)
    seed: int = 0
    output: str = "outputs"
    resume: str = "never"  # auto: resume the newest run, or sweep, of the same settings, if there is one
    data: Any = MISSING
    model: Any = MISSING
    objective: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    averaging: Any = None  # of the weights; without one it stands in no run's configuration
    robustness: Any = MISSING
    callback: CallbackConfig = field(default_factory=CallbackConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    trainer: Any = MISSING
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class EvaluateConfig:
    """Root of `symrob evaluate`."""

    checkpoint: str = ""  # of a run; or, in its place, the six settings of a network that was trained elsewhere:
    network: Any = field(default_factory=dict)  # _target_, a class of yours, and its settings
    weights: str = ""  # file of its state dict: .pt, .pth, .safetensors
    weights_prefix: str = ""  # of its keys, where it is none of module., _orig_mod., model., net., network.
    mean: Any = None  # of the normalisation in front of it, of pixels in [0, 1]; one number or one per channel
    std: Any = None
    training_seed: int = 0  # sets apart networks of one name; reports average over it
    output: str = ""  # folder of the report (empty: beside the checkpoint) or of a network's run (empty: outputs)
    name: str = ""  # stem of the report's files; empty: the chosen protocol's name; of a network its name and directory
    title: str = ""  # of the network in reports; empty: its name
    group: str = ""  # networks that belong together
    protocol: str = ""  # filled in: the chosen file of conf/robustness
    seed: int = 0
    trusted: list[str] = field(default_factory=list)  # your own modules, whose classes the checkpoint may name
    sources: list[str] = field(default_factory=list)  # checkpoints on which robustness=transfer crafts images
    data: Any = None  # null: the set the checkpoint was trained on; without _target_: the same, with these settings
    split: str = "test"
    num_images: int | None = 1000  # null: the whole split
    accelerator: str = "auto"
    compile: bool = False  # torch.compile for gradient attacks; needs a C++ compiler, costs a minute
    shard_size: int | None = None  # images per shard, the most an interruption loses; null: suits protocol and device
    overwrite: bool = False  # replace an existing report
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
