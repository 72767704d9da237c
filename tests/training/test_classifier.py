"""Metrics logged of an epoch, and how often filters are expanded in one."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from symmetry_robustness.layers import expansion_cache as kept
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.training.classifier import Classifier, Meter
from symmetry_robustness.training.objectives import AdversarialWeightPerturbation, CleanAndFGSM, CrossEntropy


def test_the_loss_of_an_epoch_is_the_mean_over_its_images() -> None:
    logits, labels = torch.randn(100, 3), torch.randint(3, (100,))
    meter = Meter(3)
    for part in (slice(0, 64), slice(64, 99), slice(99, 100)):
        meter.update(functional.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    torch.testing.assert_close(meter.loss.compute(), functional.cross_entropy(logits, labels))
    torch.testing.assert_close(meter.accuracy.compute(), (logits.argmax(1) == labels).float().mean())


def test_a_loss_that_is_not_a_number_shows() -> None:
    meter = Meter(2)
    for loss in (1.0, float("nan"), 1.0):
        meter.update(torch.tensor(loss), torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    assert meter.loss.compute().isnan()


class Counting(nn.Sequential):
    """A network with a steerable layer that notes of each call its period, and how often filters were expanded."""

    def __init__(self) -> None:
        layer = RotationConv("C4", 3, 1, in_representation="trivial")
        super().__init__(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.calls: list[tuple[object, bool]] = []
        self.expansions = 0
        expand = layer.expand_weight

        def counted(weight: Tensor) -> Tensor:
            self.expansions += 1
            return expand(weight)

        layer.expand_weight = counted  # type: ignore[method-assign]

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append((kept._TOKEN.get(), torch.is_grad_enabled()))
        return super().forward(images)  # type: ignore[no-any-return]


def quiet_trainer(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


class Replaying:
    """Cross-entropy on each batch twice, which notes what a training tells it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(("loss", network[2].bias[0].item()))  # type: ignore[index, union-attr]
        logits = network(images)
        return functional.cross_entropy(logits, labels), logits

    def set_epoch(self, epoch: int) -> None:
        self.calls.append(("epoch", epoch))

    def update(self, network: nn.Module, step: Callable[[], object]) -> None:
        self.calls.append(("update", network))
        for _ in range(2):
            step()


def test_an_objective_may_update_the_weights_twice_on_a_batch_and_hears_of_epochs() -> None:
    network, objective = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), Replaying()
    sgd = functools.partial(torch.optim.SGD, lr=0.5)
    classifier = Classifier(network, objective, sgd, num_classes=4, test_names=["test"])
    by_hand = copy.deepcopy(network)
    images, labels = torch.rand(16, 3, 8, 8), torch.randint(4, (16,))
    trainer = quiet_trainer()
    batches = DataLoader(TensorDataset(images, labels), batch_size=8)
    trainer.fit(classifier, batches, batches)
    assert trainer.global_step == 4  # of batches, not of updates
    names = [name for name, _ in objective.calls]
    assert names == ["update", "epoch", "loss", "epoch", "loss"] * 4
    assert [value for name, value in objective.calls if name == "epoch"] == [0] * 4 + [1] * 4
    assert len({value for name, value in objective.calls if name == "loss"}) == 8
    optimizer = sgd(by_hand.parameters())
    for part in [slice(8), slice(8), slice(8, 16), slice(8, 16)] * 2:
        optimizer.zero_grad()
        functional.cross_entropy(by_hand(images[part]), labels[part]).backward()
        optimizer.step()
    for trained, expected in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(trained, expected)


class Penalised:
    """Cross-entropy plus the mean square of the logits."""

    terms = ("penalty",)

    def __init__(self) -> None:
        self.returned: list[tuple[float, int]] = []

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        logits = network(images)
        penalty = logits.square().mean()
        self.returned.append((penalty.item(), len(images)))
        return functional.cross_entropy(logits, labels) + penalty, logits, {"penalty": penalty}


@pytest.mark.parametrize("gamma", [None, 0.0, 0.1])
def test_terms_of_the_loss_are_logged_as_means_over_images(gamma: float | None) -> None:
    """Within AWP, which computes the loss twice, they are those at the moved weights."""
    network, objective = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), Penalised()
    around = objective if gamma is None else AdversarialWeightPerturbation(objective, gamma=gamma)
    sgd = functools.partial(torch.optim.SGD, lr=0.5)
    classifier = Classifier(network, around, sgd, num_classes=4, test_names=["test"])
    batches = DataLoader(TensorDataset(torch.rand(20, 3, 8, 8), torch.randint(4, (20,))), batch_size=8)
    found: list[float] = []

    class Reading(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found.append(trainer.callback_metrics["train/penalty"].item())

    quiet_trainer(callbacks=[Reading()]).fit(classifier, batches, batches)
    kept = objective.returned[1::2] if gamma else objective.returned
    assert [size for _, size in kept] == [8, 8, 4] * 2
    expected = [sum(value * size for value, size in epoch) / 20 for epoch in (kept[:3], kept[3:])]
    assert found == pytest.approx(expected, rel=1e-5)


def test_filters_are_expanded_once_per_update_of_the_weights() -> None:
    network = Counting()
    adam = functools.partial(torch.optim.Adam, lr=0.01)
    classifier = Classifier(network, CleanAndFGSM(), adam, num_classes=4, test_names=["test"])
    images = TensorDataset(torch.rand(64, 3, 8, 8), torch.randint(4, (64,)))
    trainer = quiet_trainer(accumulate_grad_batches=2)
    trainer.fit(classifier, DataLoader(images, batch_size=8), DataLoader(images, batch_size=16))
    # Of 8 batches two at a time are for one update; in each the network is called to craft an attack and to learn.
    assert trainer.global_step == 8
    assert network.expansions == 8 + 1  # and once for the last validation
    learning = [period for period, learns in network.calls if learns]
    judging = [period for period, learns in network.calls if not learns]
    assert (len(learning), len(judging)) == (32, 8)
    for at in range(0, 32, 4):
        assert len({*learning[at : at + 4]}) == 1
    assert len({*learning}) == 8
    assert len({*judging}) == 2
    assert not {*learning} & {*judging}
    assert None not in {*learning, *judging}


def test_the_meters_are_logged_once_a_loop_and_count_every_batch() -> None:
    """Lightning takes milliseconds for each call of `log`, as long as a small network takes for a batch on a GPU."""
    logged: list[str] = []

    class Listening(Classifier):
        def log(self, name: str, *arguments: object, **settings: object) -> None:
            logged.append(name)
            super().log(name, *arguments, **settings)  # type: ignore[arg-type]

    found: list[dict[str, float]] = []

    class Reading(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
    still = functools.partial(torch.optim.SGD, lr=0.0)  # so that every batch is judged by the same weights
    classifier = Listening(network, CrossEntropy(), still, num_classes=4, test_names=["test"])
    train, validation = (TensorDataset(torch.rand(n, 3, 8, 8), torch.randint(4, (n,))) for n in (61, 33))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        val_check_interval=3,  # in the middle of an epoch, too
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Reading()],
    )
    trainer.fit(classifier, DataLoader(train, batch_size=8), DataLoader(validation, batch_size=8))
    for metrics in found:
        for name, images in (("train", train), ("validation", validation)):
            logits = network(images.tensors[0]).detach()
            loss = functional.cross_entropy(logits, images.tensors[1])
            accuracy = (logits.argmax(1) == images.tensors[1]).float().mean()
            assert abs(metrics[f"{name}/loss"] - float(loss)) < 1e-5
            assert abs(metrics[f"{name}/accuracy"] - float(accuracy)) < 1e-6
    assert len(found) == 2
    # In each of two epochs of 8 batches twice a validation of 5, after which training goes on.
    assert logged.count("validation/loss") == 4
    assert logged.count("train/loss") == 6
