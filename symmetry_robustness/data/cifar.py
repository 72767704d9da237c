"""CIFAR-10 and CIFAR-100, from the official binary or Python layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from symmetry_robustness.data.archives import CIFAR, CIFAR10, CIFAR100
from symmetry_robustness.data.augmentation import RandomCropFlip
from symmetry_robustness.data.cifar_format import read_binary, read_python
from symmetry_robustness.data.integrity import Copy, check_files, find_directory
from symmetry_robustness.data.loaders import Batch, Split
from symmetry_robustness.data.module import ImageDataModule
from symmetry_robustness.data.test_transforms import Views
from symmetry_robustness.errors import UserError


def read_cifar(cifar: CIFAR, root: Path, copy: Copy, *, train: bool) -> Batch:
    """Training or test images and labels, in the official order.

    Args:
        cifar: The data set.
        root: Directory that holds the unpacked folder; the binary layout is preferred to the Python one.
        copy: `official` compares checksums, `other` accepts a deliberate other copy, for example a re-encoded one.
        train: Which images.

    Returns:
        uint8 (N, 3, 32, 32) and int64 (N,).

    Raises:
        UserError: if a file is missing, truncated, altered, or has labels that CIFAR does not have.
    """
    archive, directory = find_directory([cifar.binary, cifar.python], root)
    binary = archive is cifar.binary
    names = [f"{name}.bin" if binary else name for name in (cifar.train if train else cifar.test)]
    check_files(archive, directory, names, copy)
    size = cifar.train_images if train else cifar.test_images
    images, labels = torch.empty(size, 3, 32, 32, dtype=torch.uint8), torch.empty(size, dtype=torch.int64)
    per_file = size // len(names)
    for index, name in enumerate(names):
        rows = slice(index * per_file, (index + 1) * per_file)
        if binary:
            read_binary(directory / name, images[rows], labels[rows], cifar.label_bytes)
        else:
            read_python(directory / name, images[rows], labels[rows], cifar.label_key)
    _check_labels(cifar, labels, directory, f"run `{archive.mend(directory.parent)}`")
    return images, labels


def _check_labels(cifar: CIFAR, labels: Tensor, directory: Path, remedy: str) -> None:
    classes = len(cifar.class_names)
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{directory} has labels {labels.min()} to {labels.max()}, expected 0 to {classes - 1}; {remedy}"
        )
    counts = labels.bincount(minlength=classes)
    if (counts != len(labels) // classes).any():
        raise UserError(
            f"{directory} has {counts.min()} to {counts.max()} images of a class, expected {len(labels) // classes}; "
            f"{remedy}"
        )


class CIFARDataModule(ImageDataModule):
    """A CIFAR data set read from disk; it never downloads anything itself.

    Args:
        root: Directory that holds the unpacked folder.
        copy: `official` compares checksums; `other` accepts a deliberate other copy and says so in `origin`.
        inexact: Under `copy="other"`, the images whose pixels are known to differ from the official ones, numbered
            over the training images and then the test images, from 0; `origin` counts them, and those of the test
            set are never among the images on which robustness is measured. None where nothing is known.
        num_classes: Must be the data set's own number.
        batch_size: Images per optimiser step, summed over all ranks.
        evaluation_batch_size: Largest number of images per evaluation step, summed over all ranks.
        validation_size: Images set aside from the training images; 0, the paper's way, leaves no validation loader.
        train_size: How many of the remaining images to train on; None means all.
        seed: Of the order, the validation split and the augmentation.
        augmentation: Of training batches; None, the paper's way, leaves them as they are.
        test_transform: Makes of each test set as many as there are views; None leaves it as it is.

    Raises:
        UserError: if a setting is out of range; on reading, if a file is missing, truncated or altered.
    """

    cifar: ClassVar[CIFAR]

    def __init__(
        self,
        root: str | Path,
        num_classes: int,
        copy: Copy = "official",
        inexact: Sequence[int] | None = None,
        batch_size: int = 128,
        evaluation_batch_size: int = 512,
        validation_size: int = 5_000,
        train_size: int | None = None,
        seed: int = 0,
        augmentation: RandomCropFlip | None = None,
        test_transform: Views | None = None,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            class_names=self.cifar.class_names,
            batch_size=batch_size,
            evaluation_batch_size=evaluation_batch_size,
            validation_size=validation_size,
            train_size=train_size,
            seed=seed,
            augmentation=augmentation,
            test_transform=test_transform,
        )
        if copy not in ("official", "other"):
            raise UserError(f"data.copy={copy!r} is unknown; choose official, or other for a deliberate other copy")
        self.root, self.copy = Path(root).expanduser(), copy
        self.inexact = inexact if inexact is None else sorted({*inexact})
        self._check_inexact()

    def _check_inexact(self) -> None:
        if self.inexact is None:
            return
        if self.copy == "official":
            raise UserError("data.inexact is for other copies, but data.copy=official; set data.copy=other")
        train, total = self.cifar.train_images, self.cifar.train_images + self.cifar.test_images
        if wrong := [number for number in self.inexact if not 0 <= number < total]:
            raise UserError(f"data.inexact has {wrong[0]}; images are numbered from 0 to {total - 1}")
        self.excluded_test_images = [number - train for number in self.inexact if number >= train]

    @property
    def origin(self) -> str:
        """The data set, and whether its files are the official ones."""
        if self.inexact is not None:
            total = self.cifar.train_images + self.cifar.test_images
            return f"{self.cifar.title}, {total - len(self.inexact):,} of {total:,} images exact"
        return (
            f"{self.cifar.title}, {'official files' if self.copy == 'official' else 'another copy (data.copy=other)'}"
        )

    def load_train(self) -> Batch:
        """The official training images."""
        return read_cifar(self.cifar, self.root, self.copy, train=True)

    def load_test(self) -> list[Split]:
        """The official test images."""
        images, labels = read_cifar(self.cifar, self.root, self.copy, train=False)
        return [Split("test", images, labels, torch.arange(len(labels)))]


class CIFAR10DataModule(CIFARDataModule):
    """CIFAR-10. Source: https://www.cs.toronto.edu/~kriz/cifar.html."""

    cifar = CIFAR10


class CIFAR100DataModule(CIFARDataModule):
    """CIFAR-100 with its 100 fine labels. Source: https://www.cs.toronto.edu/~kriz/cifar.html."""

    cifar = CIFAR100
