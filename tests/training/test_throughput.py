import copy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from symmetry_robustness import build_network, load_config
from symmetry_robustness.training import Classifier, CrossEntropy
from symmetry_robustness.training.objectives import AdversarialWeightPerturbation, Objective, PGDTraining
from symmetry_robustness.training.throughput import ThroughputMonitor, count_flops, count_step_flops, training_cost

from .slow_motion import Clock, Ticks

SHAPE = (3, 8, 8)


def test_flops_are_those_of_the_formula() -> None:
    """A convolution takes 2 · C_in · k² · C_out operations for each pixel it puts out, a linear layer 2 · in · out."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 32 * 32, 10))
    assert count_flops(network, (3, 32, 32)) == 2 * 3 * 9 * 8 * 32 * 32 + 2 * 8 * 32 * 32 * 10


def test_counting_leaves_the_network_as_it_is() -> None:
    """Rotation layers count as the plain convolutions they are exported to; batch norms learn nothing."""
    network = build_network(load_config("train", ["model=parallel_rotation_4layer"]))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    # The stem has 16 plain and 4 · 16 rotated channels, the trunk 32, 32 and 64 of half the size.
    stem, trunk = 2 * 3 * 9 * 80 * 32 * 32, 2 * 9 * (80 * 32 + 32 * 32 + 32 * 64) * 16 * 16
    assert count_flops(network, (3, 32, 32)) == stem + trunk + 2 * 64 * 10
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Made(pl.LightningDataModule):
    """Forty images in batches of sixteen, to train and to validate on."""

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((40, *SHAPE), generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(40) % 2), batch_size=16)

    val_dataloader = train_dataloader


def fit(
    directory: Path, epochs: int, checkpoint: Path | None = None, objective: Objective | None = None
) -> dict[str, float]:
    clock = Clock()
    counted = ThroughputMonitor(clock)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    module = Classifier(network, objective or CrossEntropy(), torch.optim.Adam, num_classes=2, test_names=["test"])
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=directory,
        callbacks=[Ticks(clock), counted],
    )
    trainer.fit(module, datamodule=Made(), ckpt_path=checkpoint)
    trainer.save_checkpoint(directory / "last.ckpt")
    assert counted.images_per_second == pytest.approx(40 / 75)  # of the last epoch
    return training_cost(trainer, network, module.objective, torch.rand(16, *SHAPE), torch.arange(16) % 2)


def test_epochs_of_an_objective_count_as_what_they_are(tmp_path: Path) -> None:
    """Weights are moved from the second of three epochs on, which takes one more forward and backward pass."""
    plain = fit(tmp_path / "plain", 3)
    moved = fit(tmp_path / "moved", 3, objective=AdversarialWeightPerturbation(CrossEntropy(), start_epoch=1))
    assert (moved["forward_passes"], moved["backward_passes"]) == (2, 2)
    assert moved["step_flops"] == 2 * plain["step_flops"] > 0
    assert moved["training_flops"] == pytest.approx(plain["training_flops"] * 5 / 3, abs=1)


def test_only_training_counts(tmp_path: Path) -> None:
    """Three batches of 25 seconds in each epoch; the hours of validation are left out."""
    cost = fit(tmp_path, 2)
    assert (cost["training_seconds"], cost["epochs"]) == (150, 2)
    assert cost["images_per_second"] == pytest.approx(80 / 150)
    assert cost["flops"] == 2 * 3 * 8 * 8 * 2


def test_the_operations_of_a_training_are_those_of_its_passes(tmp_path: Path) -> None:
    """A linear layer takes 2 · in · out operations for each image forward, and as many for its weights' gradient."""
    cost = fit(tmp_path, 2)
    assert cost["step_flops"] == 16 * 2 * (2 * 3 * 8 * 8 * 2)
    assert cost["training_flops"] == 80 * 2 * (2 * 3 * 8 * 8 * 2)
    assert (cost["forward_passes"], cost["backward_passes"]) == (1, 1)
    assert cost["peak_memory"] > 2**20


@pytest.mark.parametrize("steps", [1, 3])
def test_the_operations_of_an_attack_count(steps: int) -> None:
    """A step of PGD goes forward and back to the image; the image's gradient alone takes no gradient of weights."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    images, labels = torch.rand(5, *SHAPE), torch.arange(5) % 2
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    found = count_step_flops(network, PGDTraining(steps=steps), images, labels)
    convolution, linear = 5 * 2 * 3 * 9 * 4 * 36, 5 * 2 * 4 * 36 * 2
    forward = convolution + linear
    trained = forward + convolution + 2 * linear  # nobody asks for the gradient by the attacked image
    assert found == trained + steps * (forward + convolution + linear)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    fit(tmp_path, 1)
    cost = fit(tmp_path, 3, tmp_path / "last.ckpt")
    assert (cost["training_seconds"], cost["epochs"]) == (225, 3)
