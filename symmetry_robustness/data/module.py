"""The base of all data modules: splits, loaders and the step from uint8 to float."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from symmetry_robustness.data.augmentation import Augmentations
from symmetry_robustness.data.loaders import Batch, EvaluationLoader, Split, TrainLoader, check_split
from symmetry_robustness.data.test_transforms import TestTransform, View
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.settings import checked

SplitName = Literal["train", "validation", "test"]

# Keep the purposes of one seed apart: the order of epoch e is drawn from (seed, e), the rest from longer keys.
_VALIDATION, _SUBSET, _AUGMENTATION = 1, 2, 3


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def split_train(size: int, validation_size: int, train_size: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Rows for training and for validation: disjoint, ascending, drawn from the seed.

    The validation rows do not depend on `train_size`.

    Raises:
        UserError: if more images are asked for than there are.
    """
    wanted = validation_size + (1 if train_size is None else train_size)
    if wanted > size:
        raise UserError(
            f"data.validation_size={validation_size} and data.train_size={train_size} ask for at least {wanted} of "
            f"{size} training images; choose smaller sizes"
        )
    order = torch.randperm(size, generator=keyed_generator(seed, 0, _VALIDATION))
    rest = order[validation_size:]
    return rest[:train_size].sort().values, order[:validation_size].sort().values


@checked
@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(LightningDataModule, ABC):
    """Images that stay uint8 in memory until they reach their device.

    The settings are the fields of this dataclass; a data set adds its own, or takes these as `**settings`. Training and
    test images are read and checked before training starts, so that a mistake in either ends the job at once.

    Args:
        num_classes: Must be the data set's own number; the configuration states it so that a network can refer to it.
        class_names: In the order of the labels.
        image_size: Height and width; stated for the network, as the number of classes is.
        batch_size: Images per optimiser step, summed over all ranks.
        evaluation_batch_size: Largest number of images per evaluation step, summed over all ranks.
        validation_size: Images set aside from the training images; 0, the paper's way, leaves no validation loader.
        train_size: How many of the remaining images to train on; None means all.
        seed: Of the order, the validation split and the augmentation.
        augmentation: Applied to training batches on their device; None, the paper's way, leaves them as they are.
        test_transform: Turns each test set into several; None leaves it as it is.

    Raises:
        UserError: if a size is out of range or the number of classes is not the data set's; on reading, if images or
            labels are of another type or shape than `load_train` and `load_test` state.
    """

    num_classes: int
    class_names: Sequence[str]
    image_size: int = 32
    batch_size: int = 128
    evaluation_batch_size: int = 512
    validation_size: int = 5_000
    train_size: int | None = None
    seed: int = 0
    augmentation: Augmentations | None = None
    test_transform: TestTransform | None = None
    excluded_test_images: Sequence[int] = field(init=False, default=())
    """Positions in the test sets, one after the other, that `subset` never chooses."""

    def __post_init__(self) -> None:
        LightningDataModule.__init__(self)
        self.class_names = tuple(self.class_names)
        if self.num_classes != len(self.class_names):
            raise UserError(
                f"data.num_classes={self.num_classes}, but the data set has {len(self.class_names)}; set it to that"
            )
        for name in ("image_size", "batch_size", "evaluation_batch_size", "train_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"data.{name} must be at least 1, got {value}; choose a positive number")
        for name in ("validation_size", "seed"):
            if (value := getattr(self, name)) < 0:
                raise UserError(f"data.{name} must not be negative, got {value}; choose 0 or more")
        self._splits: dict[SplitName, list[Split]] = {}
        self._training: TrainLoader | None = None

    @abstractmethod
    def load_train(self) -> Batch:
        """All training images, uint8 (N, 3, H, W) with H = W = `image_size`, and labels, int64 (N,), in their order."""

    @abstractmethod
    def load_test(self) -> list[Split]:
        """The test sets as they are, one for each name in `test_sets`."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return 3, self.image_size, self.image_size

    @property
    def test_sets(self) -> list[str]:
        """Names of the test sets, in their order."""
        return ["test"]

    @property
    def origin(self) -> str:
        """Where the images come from."""
        return type(self).__name__

    @property
    def test_names(self) -> list[str]:
        """Names of the test loaders, in their order: of the test sets, or of their views."""
        return [view.name for name in self.test_sets for view in self._views(name)]

    @property
    def provenance(self) -> str:
        """Description of the images, to be stated beside every number measured on them."""
        return self.origin if self.test_transform is None else f"{self.origin}; test images {self.test_transform}"

    def __str__(self) -> str:
        # Lightning's own text asks for every loader and so would read the test images.
        return self.provenance

    def setup(self, stage: str) -> None:
        """Read and check the images that a stage of Lightning needs, on every process, so that a mistake stops all."""
        if stage in ("fit", "validate"):
            self._parts("train")
        if stage in ("fit", "test"):
            self._parts("test")

    def _parts(self, name: SplitName) -> list[Split]:
        if name == "test" and name not in self._splits:
            self._splits[name] = [
                replace(split, name=view.name, transform=view.transform or split.transform)
                for split in (self._checked(split, "load_test") for split in self._test_splits())
                for view in self._views(split.name)
            ]
        elif name not in self._splits:
            found: object = self.load_train()
            if not isinstance(found, tuple | list) or len(found) != 2:
                raise UserError(f"{type(self).__name__}.load_train must return a pair; return images, labels")
            images, labels = found
            whole = self._checked(Split("train", images, labels, torch.empty(0, dtype=torch.int64)), "load_train")
            train, validation = split_train(len(whole.labels), self.validation_size, self.train_size, self.seed)
            self._splits["train"] = [replace(whole, indices=train)]
            self._splits["validation"] = (
                [replace(whole, name="validation", indices=validation)] if len(validation) else []
            )
        return self._splits[name]

    def _test_splits(self) -> list[Split]:
        found: object = self.load_test()
        splits = [split for split in found if isinstance(split, Split)] if isinstance(found, list | tuple) else []
        if not splits or len(splits) < len(found) or [split.name for split in splits] != self.test_sets:  # type: ignore[arg-type]
            names = ", ".join(split.name for split in splits) or type(found).__name__
            raise UserError(
                f"{type(self).__name__}.load_test must return a list of one Split for each of test_sets="
                f"{self.test_sets}, got {names}; name them alike"
            )
        return splits

    def _checked(self, split: Split, method: str) -> Split:
        return check_split(split, f"{type(self).__name__}.{method}", self.num_classes, self.image_size)

    def _views(self, test_set: str) -> list[View]:
        """Views of a test set by the names of their loaders."""
        if self.test_transform is None:
            return [View(test_set, None)]
        prefix = "" if test_set == "test" else f"{test_set}/"
        return [view._replace(name=prefix + view.name) for view in self.test_transform.views()]

    def _loader_settings(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size, "pin_memory": on_gpu}

    def train_dataloader(self) -> TrainLoader:
        """Batches of this rank in the seeded order."""
        (split,) = self._parts("train")
        self._training = TrainLoader(split, self.batch_size, self.seed, **self._loader_settings())
        return self._training

    def val_dataloader(self) -> list[EvaluationLoader]:
        """One loader in data order, or none where `validation_size` is 0."""
        if self.validation_size == 0:
            # Lightning would warn of what the setting asks for.
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return self._evaluation("validation")

    def test_dataloader(self) -> list[EvaluationLoader]:
        """One loader in data order for each name in `test_names`."""
        return self._evaluation("test")

    def _evaluation(self, name: SplitName) -> list[EvaluationLoader]:
        settings = self._loader_settings()
        return [EvaluationLoader(split, self.evaluation_batch_size, **settings) for split in self._parts(name)]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Pixels to float32 in [0, 1] on the device, then the augmentation if the batch is a training batch."""
        images, labels = batch
        images = to_float(images)
        if self.augmentation and self._training is not None and self.trainer and self.trainer.training:
            loader = self._training
            position = loader.position - 1  # the loader counts the batches it has handed out
            generator = keyed_generator(self.seed, loader.epoch, position, _AUGMENTATION)
            images = self.augmentation(images, generator, *loader.batch_rows(position))
        return images, labels

    def split_size(self, split: SplitName) -> int:
        """Number of images of a split; where there are several test sets, of all together."""
        return sum(map(len, self._parts(split)))

    def subset(
        self, split: SplitName, size: int | None, seed: int, *, setting: str = "size"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A fixed choice of images of a split, the same on every rank and in every process.

        Args:
            split: Which images; where there are several test sets, their images one set after the other.
            size: How many; None means all.
            seed: Of the choice.
            setting: Name of the size in the configuration.

        Returns:
            Images float32 in [0, 1] (N, 3, H, W), labels int64 (N,), and their indices int64 (N,), ascending: rows of
            the training file, or positions in the test sets one after the other.

        Raises:
            UserError: if the split has fewer images or does not exist.
        """
        parts = self._parts(split)
        total = self.split_size(split)
        if total == 0:
            raise UserError("data.validation_size=0 leaves no validation images; set a size or choose another split")
        order = torch.randperm(total, generator=keyed_generator(seed, 0, _SUBSET))
        if split == "test":
            order = order[torch.isin(order, torch.tensor(self.excluded_test_images, dtype=torch.int64), invert=True)]
            total = len(order)
        if size is not None and not 1 <= size <= total:
            raise UserError(f"{setting}={size}, but the {split} split has {total} images; choose 1 to {total}")
        chosen = order[:size].sort().values
        images = torch.empty(len(chosen), *self.image_shape)  # once: of all corrupted images it has 9 GB
        labels, indices, start, filled = [], [], 0, 0
        for part in parts:
            positions = chosen[(chosen >= start) & (chosen < start + len(part))]
            part_images, part_labels = part.gather(positions - start)
            images[filled : filled + len(positions)] = to_float(part_images)
            labels.append(part_labels)
            indices.append(positions if split == "test" else part.indices[positions - start])
            start, filled = start + len(part), filled + len(positions)
        return images, torch.cat(labels), torch.cat(indices)
