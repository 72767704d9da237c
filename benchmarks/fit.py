"""One training as the project runs it, without validation and evaluation, for benchmarks to time."""

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from symmetry_robustness import build_network, load_config
from symmetry_robustness.runs.autotune import computing_in, tune_training
from symmetry_robustness.runs.process import keep_freed_memory
from symmetry_robustness.training import Classifier


class Clock(pl.Callback):
    """Seconds of all epochs, with whatever the callbacks before this one do after each."""

    def __init__(self) -> None:
        self.seconds = self._start = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._start


class Fit(NamedTuple):
    """A training that is ready to be run."""

    config: DictConfig
    accelerator: str

    def run(self, epochs: int, callbacks: Sequence[pl.Callback], directory: str | None = None) -> float:
        """Seconds of all epochs."""
        datamodule = instantiate(self.config.data)
        classifier = Classifier(
            build_network(self.config),
            objective=instantiate(self.config.objective),
            optimizer=instantiate(self.config.optimizer),
            num_classes=datamodule.num_classes,
            test_names=datamodule.test_names,
        )
        compute = tune_training(self.config, classifier, datamodule.batch_size, datamodule.image_shape).settings
        classifier.lay_out(channels_last=compute.channels_last)
        if compute.compile:
            classifier.network.compile()
        clock = Clock()
        trainer = pl.Trainer(
            accelerator=self.accelerator,
            devices=1,
            precision=compute.precision,  # type: ignore[arg-type]
            max_epochs=epochs,
            limit_val_batches=0,
            default_root_dir=directory,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, clock],
        )
        with computing_in(compute.threads):
            trainer.fit(classifier, datamodule=datamodule)
        return clock.seconds


def prepare(name: str, device: str, *overrides: str) -> Fit:
    """A training of a network on the embedded data set, in a process that is set up as a job's."""
    keep_freed_memory()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    accelerator = "gpu" if device == "cuda" else "cpu"
    return Fit(load_config("train", [f"model={name}", f"trainer={accelerator}", *overrides]), accelerator)
