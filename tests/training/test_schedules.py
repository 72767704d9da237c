"""Schedules give the learning rates of their sources, step by step."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, StepLR

from symmetry_robustness import load_config
from symmetry_robustness.data import ShapesDataModule
from symmetry_robustness.errors import UserError
from symmetry_robustness.training import Classifier, CrossEntropy
from symmetry_robustness.training.schedules import MakeSchedule, cyclic, drive, piecewise


def sgd(lr: float = 0.2) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule: Any, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_cyclic_is_that_of_the_released_script() -> None:
    expected = CyclicLR(sgd(), base_lr=0.0, max_lr=0.2, step_size_up=15, step_size_down=15, cycle_momentum=False)
    assert rates(cyclic(sgd(), 30), 30) == pytest.approx(rates(expected, 30))
    early = rates(cyclic(sgd(), 30, peak=0.4), 30)
    assert max(early) == early[12] == pytest.approx(0.2)


def test_piecewise_is_that_of_the_released_script() -> None:
    def released(t: float) -> float:
        return 0.1 if t / 4 < 0.5 else 0.1 / 10.0 if t / 4 < 0.75 else 0.1 / 100.0

    expected = [released(epoch + (batch + 1) / 8) for epoch in range(4) for batch in range(8)]
    assert rates(piecewise(sgd(0.1), 32), 32) == pytest.approx(expected)


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(make: MakeSchedule, directory: Path, epochs: int, checkpoint: Path | None = None) -> list[float]:
    """Learning rates of a training of three batches an epoch, that ends after some of its four epochs."""
    seen = Rates()
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    module = Classifier(
        network, CrossEntropy(), partial(torch.optim.SGD, lr=0.2), make, num_classes=10, test_names=["test"]
    )
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=directory, callbacks=[seen, Stop(epochs)],
    )  # fmt: skip
    sizes = {"train_size": 40, "validation_size": 0, "test_size": 10, "batch_size": 16}
    datamodule = ShapesDataModule(num_classes=10, **sizes)  # type: ignore[arg-type]
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    trainer.save_checkpoint(directory / "last.ckpt")
    return seen.seen


class Stop(pl.Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


@pytest.mark.parametrize("make", [cyclic, piecewise])
def test_a_training_steps_them_after_each_batch_and_a_resumed_one_goes_on(make: MakeSchedule, tmp_path: Path) -> None:
    expected = rates(make(sgd(), 12), 12)
    assert fit(make, tmp_path, 4) == expected
    assert fit(make, tmp_path, 2) == expected[:6]
    assert fit(make, tmp_path, 4, tmp_path / "last.ckpt") == expected[6:]


def test_others_are_stepped_after_each_epoch(tmp_path: Path) -> None:
    assert fit(partial(StepLR, step_size=1, gamma=0.5), tmp_path, 3) == [0.2] * 3 + [0.1] * 3 + [0.05] * 3


@pytest.mark.parametrize("name", ["cyclic", "piecewise"])
def test_choices_of_the_configuration(name: str) -> None:
    make = instantiate(load_config("train", [f"scheduler={name}"]).scheduler)
    driven = drive(make, sgd(), lambda: 20)
    assert driven["interval"] == "step"
    assert min(rates(driven["scheduler"], 20)[1:]) < 0.05
    with pytest.raises(UserError, match=r"trainer\.max_epochs"):
        drive(make, sgd(), lambda: math.inf)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda: cyclic(sgd(), 10, peak=1.0), "peak"),
        (lambda: piecewise(sgd(), 10, milestones=[0.75, 0.5]), "milestones"),
        (lambda: piecewise(sgd(), 10, milestones=[50, 75]), "milestones"),
        (lambda: piecewise(sgd(), 10, gamma=0.0), "gamma"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong: object, word: str) -> None:
    with pytest.raises(UserError, match=word):
        wrong()  # type: ignore[operator]
