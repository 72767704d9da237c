"""Averages of weights: their closed form, and who sees them."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from symmetry_robustness import build_network, load_config, load_network
from symmetry_robustness.data import ShapesDataModule
from symmetry_robustness.errors import UserError
from symmetry_robustness.models import export
from symmetry_robustness.training import Classifier, CrossEntropy, WeightAverage


class Recorder(pl.Callback):
    """Keeps the weights after every batch, at every validation and at the end of every epoch."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []
        self.validations: list[Tensor] = []
        self.epochs: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.batches.append(weights(pl_module))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.batches.append(weights(pl_module))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.validations.append(weights(pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs.append(weights(pl_module))


def weights(module: pl.LightningModule) -> Tensor:
    network: nn.Module = module.network  # type: ignore[assignment]
    return torch.cat([weight.detach().flatten() for weight in network.parameters()]).clone()


def fit(average: WeightAverage | None, directory: Path, model: str = "standard_4layer") -> tuple[Classifier, Recorder]:
    config = load_config("train", [f"model={model}"])
    torch.manual_seed(0)
    seen = Recorder()
    module = Classifier(
        build_network(config), CrossEntropy(), torch.optim.Adam, num_classes=10, test_names=["test"], config=config
    )
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=directory,
        callbacks=[*([average] if average else []), seen],
    )  # fmt: skip
    sizes = {"train_size": 48, "validation_size": 16, "test_size": 10, "batch_size": 16, "evaluation_batch_size": 16}
    trainer.fit(module, datamodule=ShapesDataModule(num_classes=10, **sizes))  # type: ignore[arg-type]
    trainer.save_checkpoint(directory / "last.ckpt")
    return module, seen


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """Weights without an average."""
    return fit(None, tmp_path_factory.mktemp("live"))[1]


def test_without_decay_the_average_is_the_live_weights_bit_for_bit(live: Recorder, tmp_path: Path) -> None:
    _, seen = fit(WeightAverage(0.0), tmp_path)
    for found, expected in ((seen.batches, live.batches), (seen.epochs, live.epochs)):
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_average_is_its_closed_form_and_leaves_the_training_alone(
    warm_up: bool, live: Recorder, tmp_path: Path
) -> None:
    module, seen = fit(WeightAverage(0.6, warm_up), tmp_path)
    assert all(torch.equal(*pair) for pair in zip(seen.batches, live.batches, strict=True))
    start, *steps = (each.double() for each in live.batches)
    kept = [min(0.6, (1 + t) / (10 + t)) if warm_up else 0.6 for t in range(6)]
    for found, count in zip(seen.epochs, (3, 6), strict=True):
        expected = start * torch.tensor(kept[:count]).double().prod()
        for step in range(count):
            share = (1 - kept[step]) * torch.tensor(kept[step + 1 : count]).double().prod()
            expected = expected + share * steps[step]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    # Judged and saved are the averaged weights, and at the end they are the network.
    assert all(torch.equal(*pair) for pair in zip(seen.validations, seen.epochs, strict=True))
    assert torch.equal(weights(module), seen.epochs[-1])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for part, expected in (("state_dict", seen.epochs[-1]), ("live_weights", live.batches[-1])):
        names = [f"network.{name}" for name, _ in module.network.named_parameters()]
        assert torch.equal(torch.cat([saved[part][name].flatten() for name in names]), expected)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(load_network(tmp_path / "last.ckpt")(images), export(module.network)(images))


def test_the_average_of_an_invariant_network_is_invariant(tmp_path: Path) -> None:
    _, seen = fit(WeightAverage(0.9), tmp_path, "invariant_4layer")
    assert not torch.equal(seen.epochs[-1], seen.batches[-1])
    network, images = load_network(tmp_path / "last.ckpt").double(), torch.rand(4, 3, 32, 32).double()
    logits = network(images)
    assert logits.std(0).max() > 1e-3
    for turns in (1, 2, 3):
        torch.testing.assert_close(network(torch.rot90(images, turns, (2, 3))), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_no_share_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"averaging\.decay must lie in \[0, 1\)"):
        WeightAverage(decay)


def test_a_run_without_an_average_has_the_configuration_of_runs_from_before_there_was_one() -> None:
    assert "averaging" not in load_config("train")
    assert load_config("train", ["averaging=ema", "averaging.decay=0.9"]).averaging.decay == 0.9


def test_the_average_begins_with_the_weights_of_a_checkpoint_without_one(tmp_path: Path) -> None:
    module, _ = fit(None, tmp_path)
    average = WeightAverage()
    before = weights(module)
    average.on_load_checkpoint(pl.Trainer(logger=False), module, {"state_dict": module.state_dict()})
    average.on_train_start(pl.Trainer(logger=False), module)
    assert torch.equal(torch.cat([weight.flatten() for weight in average._other]), before)
    assert torch.equal(weights(module), before)
