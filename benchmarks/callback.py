"""What the robustness callback adds to the time of training, against the budget it is given.

The same training with and without the callback, each in a process of its own; validation and the evaluation at
the end are left out on both sides.
"""

import logging
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytorch_lightning as pl
from hydra.utils import instantiate
from pytorch_lightning.callbacks import LambdaCallback

from benchmarks.alone import alone
from symmetry_robustness import build_network, load_config
from symmetry_robustness.app.memory import keep_freed_memory
from symmetry_robustness.training import Classifier, RobustnessCallback
from symmetry_robustness.training.compute import fastest_precision

NETWORKS = {"standard": 12, "parallel_rotation": 4}  # with so many epochs each
TIMES = 3


def fit(name: str, epochs: int, device: str, with_callback: bool) -> tuple[float, float, float]:
    """Seconds of all epochs; the share that the callback states; images it evaluated in all."""
    keep_freed_memory()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    accelerator = "gpu" if device == "cuda" else "cpu"
    config = load_config("train", [f"model={name}", f"trainer={accelerator}", "data.train_size=6000"])
    datamodule = instantiate(config.data)
    classifier = Classifier(
        build_network(config),
        objective=instantiate(config.objective),
        optimizer=instantiate(config.optimizer),
        num_classes=datamodule.num_classes,
        test_names=datamodule.test_names,
        channels_last=config.compute.channels_last,
    )
    protocol = instantiate(config.robustness, _convert_="all")
    robustness = RobustnessCallback(protocol, **{**config.callback, "final_num_images": 1})
    images, start, seconds = 0.0, 0.0, 0.0

    def begin(*_: object) -> None:
        nonlocal start
        start = time.perf_counter()

    def end(trainer: pl.Trainer, *_: object) -> None:
        nonlocal images, seconds
        seconds += time.perf_counter() - start
        images += float(trainer.callback_metrics.get("robust/images", 0)) * _evaluated(robustness, trainer)

    clock = LambdaCallback(on_train_epoch_start=begin, on_train_epoch_end=end)
    with TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=fastest_precision(accelerator),  # type: ignore[arg-type]
            max_epochs=epochs,
            limit_val_batches=0,
            default_root_dir=Path(folder),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*([robustness] if with_callback else []), clock],
        )
        trainer.fit(classifier, datamodule=datamodule)
    return seconds, robustness.budget.spent_share, images


def _evaluated(robustness: RobustnessCallback, trainer: pl.Trainer) -> bool:
    return robustness.evaluated_epoch == trainer.current_epoch


def run(device: str = "cpu") -> list[dict[str, float | str]]:
    """A row per network, at the default budget of a tenth."""
    rows: list[dict[str, float | str]] = []
    for name, epochs in NETWORKS.items():
        found = {
            with_callback: [alone(fit, name, epochs, device, with_callback).result for _ in range(TIMES)]
            for with_callback in (False, True)
        }
        plain, watched = (statistics.median(seconds for seconds, _, _ in found[kind]) for kind in (False, True))
        _, share, images = found[True][0]
        rows.append(
            {
                "network": name,
                "epochs": str(epochs),
                "without s": plain,
                "with s": watched,
                "share measured": watched / plain - 1,
                "share stated": share,
                "images in all": images,
            }
        )
    return rows
