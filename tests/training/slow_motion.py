"""A real training whose clock only batches and attacked images move; by itself it runs on two processes."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.data import ShapesDataModule
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport
from symmetry_robustness.training import Classifier, CrossEntropy, RobustnessCallback
from symmetry_robustness.training.metrics_csv import MetricsCSV

BATCHES = 4
PIXELS = 3 * 32 * 32


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Ticks(pl.Callback):
    """Lets every training batch take 25 seconds, and every validation batch an hour."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *args: object) -> None:
        self.clock.now += 100 / BATCHES

    def on_validation_batch_start(self, *args: object, **kwargs: object) -> None:
        self.clock.now += 3600


class Slow:
    """An attack that changes nothing and takes its time: `fixed` seconds, and `per_image` for each image."""

    def __init__(self, clock: Clock, fixed: float, per_image: float) -> None:
        self.clock, self.fixed, self.per_image = clock, fixed, per_image

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: object = None
    ) -> Tensor:
        self.clock.now += self.fixed + self.per_image * len(images)
        return images


class Training:
    """A few epochs of a linear network on the embedded data set, with everything a test wants to look at."""

    def __init__(self, directory: Path, fixed: float = 0.0, per_image: float = 0.0, **settings: Any) -> None:
        self.directory, self.clock = directory, Clock()
        directory.mkdir(exist_ok=True)
        # Every image at every epsilon is attacked, so that the time depends on their number alone.
        protocol = EvaluationProtocol({"slow": Slow(self.clock, fixed, per_image)}, epsilons=[0.1], judge="returned")
        sizes = {"num_images": 64, "min_images": 8, "final_num_images": 8}
        self.callback = RobustnessCallback(protocol, **{**sizes, **settings}, clock=self.clock)
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 10))
        optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.01)  # noqa: E731
        self.classifier = Classifier(network, CrossEntropy(), optimizer, num_classes=10, test_names=["test"])
        size = {"train_size": 16 * BATCHES, "validation_size": 64, "test_size": 8, "batch_size": 16}
        self.data = ShapesDataModule(num_classes=10, **size, evaluation_batch_size=64)

    def fit(self, epochs: int, *callbacks: pl.Callback, resume: Path | None = None, **settings: Any) -> "Training":
        trainer = pl.Trainer(
            default_root_dir=self.directory,
            logger=MetricsCSV(self.directory),
            callbacks=[self.callback, Ticks(self.clock), *callbacks],
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            max_epochs=epochs,
            **settings,
        )
        trainer.fit(self.classifier, datamodule=self.data, ckpt_path=resume, weights_only=resume and True)
        return self

    def reports(self) -> dict[int, RobustnessReport]:
        paths = sorted((self.directory / "robustness").glob("validation-epoch=*.json"))
        return {int(path.stem[-3:]): RobustnessReport.load(path) for path in paths}

    def metrics(self) -> list[dict[str, str]]:
        with (self.directory / "metrics.csv").open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["train/loss"]]


class OwnPace(pl.Callback):
    """Lets attacks seem a hundred times faster to every rank but the first."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (attack,) = trainer.callbacks[0].protocol.attacks.values()  # type: ignore[attr-defined]
        attack.per_image *= 1 if trainer.is_global_zero else 0.01


if __name__ == "__main__":
    Training(Path(sys.argv[1]), per_image=1.8).fit(6, OwnPace(), devices=2, strategy="ddp")
