"""The LightningModule: one network, one objective, an optimiser and a schedule."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from symmetry_robustness.errors import UserError
from symmetry_robustness.layers.expansion_cache import frozen_weights
from symmetry_robustness.precision import float32
from symmetry_robustness.training.objectives import Objective
from symmetry_robustness.training.objectives.base import check_result, run_update, term_names
from symmetry_robustness.training.schedules import MakeSchedule, drive

Batch = tuple[Tensor, Tensor]
_CHECK_EVERY = 50  # batches; reading the loss waits for the device
_NO_TERMS: Final[Mapping[str, Tensor]] = {}


class MeanLoss(Metric):
    """Mean over images, from batches of any size on any rank.

    torchmetrics' MeanMetric would drop NaN, or with `nan_strategy="disable"` the weights.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, images: int) -> None:
        """Add the mean loss () of a number of images."""
        self.total += loss * images
        self.count += images

    def compute(self) -> Tensor:
        """The mean, ()."""
        return self.total / self.count


class Meter(nn.Module):
    """Mean loss, terms of the loss and accuracy over an epoch, from sums that ranks can add up."""

    def __init__(self, num_classes: int, terms: Iterable[str] = ()) -> None:
        super().__init__()
        self.loss = MeanLoss()
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.terms = nn.ModuleDict({_meter_key(term): MeanLoss() for term in terms})

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor, terms: Mapping[str, Tensor] = _NO_TERMS) -> None:
        """Add a batch: its mean loss (), logits (B, K), labels (B,), and means of the terms, () each."""
        self.loss.update(loss, len(labels))
        self.accuracy.update(logits, labels)
        for term, value in terms.items():
            cast(MeanLoss, self.terms[_meter_key(term)]).update(value.detach(), len(labels))


def _meter_key(name: str) -> str:
    """Key of a meter in a ModuleDict, which takes no dots and no names of its own methods."""
    return f"{name} meter".replace(".", ",")


class Classifier(pl.LightningModule):
    """Trains a network to classify images.

    Logged: train/{loss,accuracy} and validation/{loss,accuracy} per epoch, test/{loss,accuracy} per test set
    (test/{name}/… where it is not called test); counts, not means, are reduced over ranks. The loss of train is the
    objective's, elsewhere it is the cross-entropy. Terms that the objective names are logged as train/{name}.

    Args:
        network: images (B, 3, H, W) in [0, 1] to logits (B, num_classes).
        objective: is minimised.
        optimizer: takes the parameters, e.g. a partial of `torch.optim.Adam`.
        scheduler: takes the optimiser and is stepped after each epoch, or also `total_steps` and is stepped after each
            step; None keeps the learning rate.
        num_classes: number of classes, for the accuracies.
        test_names: a name for each test set of the data module.
        channels_last: lay out images and weights channels-last.
        config: the resolved configuration, saved in every checkpoint so that it can rebuild the network.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: MakeSchedule | None = None,
        *,
        num_classes: int,
        test_names: list[str],
        channels_last: bool = False,
        config: DictConfig | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.lay_out(channels_last=channels_last)
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.num_classes, self.test_names = num_classes, test_names
        self.config = None if config is None else OmegaConf.to_yaml(config)
        self._begin_loop()
        names = ["validation", *(self._test_key(name) for name in test_names)]
        meters = {"train": Meter(num_classes, term_names(objective))} | {name: Meter(num_classes) for name in names}
        self.meters = nn.ModuleDict({_meter_key(name): meter for name, meter in meters.items()})

    def _test_key(self, name: str) -> str:
        return "test" if name == "test" else f"test/{name}"

    def lay_out(self, *, channels_last: bool) -> None:
        """Choose the memory format of images and weights."""
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) in [0, 1]."""
        return self.network(images.contiguous(memory_format=self.memory_format))  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The objective on one batch; a loss that is not finite ends the training.

        Raises:
            UserError: the loss is not finite, or the objective returns something else.
        """
        images, labels = batch
        if set_epoch := getattr(self.objective, "set_epoch", None):
            set_epoch(self.current_epoch)
        with frozen_weights(self._period()):
            found = self.objective(self.network, images.contiguous(memory_format=self.memory_format), labels)
        loss, logits, terms = check_result(self.objective, found, len(labels), self.num_classes)
        if batch_index % _CHECK_EVERY == 0:
            self._check_finite(loss, f"training loss in batch {batch_index}")
        self._update("train", loss.detach(), logits.detach(), labels, terms)
        return loss if self.trainer.world_size == 1 else loss * self._weight(len(labels))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Update the weights on a batch, as the objective does it."""
        run_update(self.objective, self.network, lambda: optimizer.step(closure=optimizer_closure))

    def _weight(self, images: int) -> Tensor:
        """Weight of this rank's mean loss, so that DDP's mean over ranks is the mean over images of an uneven batch."""
        own = torch.full((), float(images), device=self.device)
        mean: Tensor = self.trainer.strategy.reduce(own.clone(), reduce_op="mean")  # in place
        return own / mean

    def _period(self) -> tuple[object, int]:
        """Token of the time between two updates of the weights, or two loops, where callbacks may change weights."""
        return self._loop, self.trainer.global_step

    def _begin_loop(self) -> None:
        self._loop = object()
        self._logged: set[str] = set()

    on_train_epoch_start = on_validation_epoch_start = on_validation_epoch_end = on_test_epoch_start = _begin_loop

    def on_train_epoch_end(self) -> None:
        """End a training with a loss that is not finite, before a checkpoint is written."""
        for name in ("train", "validation"):
            loss = self.trainer.callback_metrics.get(f"{name}/loss")
            if loss is not None:
                self._check_finite(loss, f"{name} loss")

    def _check_finite(self, loss: Tensor, name: str) -> None:
        if not torch.isfinite(loss):
            lr = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise UserError(
                f"the {name} of epoch {self.current_epoch} is {loss.item()}; "
                f"lower optimizer.lr (now {lr:g}) or set compute.precision=32-true"
            )

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Cross-entropy and accuracy on validation images."""
        self._measure("validation", batch)

    def test_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Cross-entropy and accuracy on one of the test sets, in float32 like the attacks."""
        with float32(self.device):
            self._measure(self._test_key(self.test_names[dataloader_idx]), batch)

    def _measure(self, name: str, batch: Batch) -> None:
        with frozen_weights(self._period()):
            logits = self(batch[0])
        self._update(name, F.cross_entropy(logits, batch[1]), logits, batch[1], _NO_TERMS)

    def _update(self, name: str, loss: Tensor, logits: Tensor, labels: Tensor, terms: Mapping[str, Tensor]) -> None:
        meter = cast(Meter, self.meters[_meter_key(name)])
        meter.update(loss, logits, labels, terms)
        if name in self._logged:  # Lightning holds the meters, and takes milliseconds to be told of them again
            return
        self._logged.add(name)
        common: dict[str, Any] = {"on_step": False, "on_epoch": True, "add_dataloader_idx": False}
        self.log(f"{name}/loss", meter.loss, **common)
        for term in terms:
            self.log(f"{name}/{term}", cast(MeanLoss, meter.terms[_meter_key(term)]), **common)
        self.log(f"{name}/accuracy", meter.accuracy, prog_bar=True, **common)

    def configure_optimizers(self) -> Any:
        """The optimiser over the network's parameters, and the schedule.

        Raises:
            UserError: the optimiser refuses a value.
        """
        try:
            optimizer = self.make_optimizer(self.network.parameters())
        except ValueError as error:  # torch.optim checks its numbers when it is called
            raise UserError(f"optimizer: {error}; see conf/optimizer for usual values") from error
        if self.make_scheduler is None:
            return optimizer
        driven = drive(self.make_scheduler, optimizer, lambda: self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": driven}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration as text, which can be read without running anything."""
        if self.config is not None:
            checkpoint["config"] = self.config
