"""CIFAR-10 and CIFAR-100, from the official binary layout."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from symmetry_robustness.data.archives import CIFAR, CIFAR10, CIFAR100, PIXELS
from symmetry_robustness.data.integrity import Copy, check_files, find_directory
from symmetry_robustness.data.loaders import Batch, Split
from symmetry_robustness.data.module import ImageDataModule
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked


def read_cifar(cifar: CIFAR, root: Path, copy: Copy, *, train: bool) -> Batch:
    """Training or test images and labels, in the official order.

    Args:
        cifar: The data set.
        root: Directory that holds the unpacked folder.
        copy: `official` compares checksums, `other` accepts a deliberate other copy, for example a re-encoded one.
        train: Which images.

    Returns:
        uint8 (N, 3, 32, 32) and int64 (N,).

    Raises:
        UserError: if a file is missing, truncated, altered, or has labels that CIFAR does not have.
    """
    directory, names = find_directory(cifar.archive, root), cifar.train if train else cifar.test
    check_files(cifar.archive, directory, list(names), copy)
    size = cifar.count(names)
    images, labels = torch.empty(size, 3, 32, 32, dtype=torch.uint8), torch.empty(size, dtype=torch.int64)
    start = 0
    for name in names:
        # Mapped, so that the copy into the tensor is the only one in memory.
        records = np.memmap(directory / name, np.uint8, "r").reshape(-1, cifar.label_bytes + PIXELS)
        rows = slice(start, start + len(records))
        images[rows].view(-1, PIXELS).numpy()[:] = records[:, cifar.label_bytes :]
        labels[rows].numpy()[:] = records[:, cifar.label_bytes - 1]
        start = rows.stop
    classes = len(cifar.class_names)
    counts = labels.bincount(minlength=classes)
    if (counts != size // classes).any():
        raise UserError(
            f"{directory} has labels {labels.min()} to {labels.max()}, expected 0 to {classes - 1}, and "
            f"{counts.min()} to {counts.max()} images of a class, expected {size // classes}; "
            f"run `{cifar.archive.download_command(directory.parent)}`"
        )
    return images, labels


@checked
@dataclass(kw_only=True, eq=False, repr=False)
class CIFARDataModule(ImageDataModule):
    """A CIFAR data set read from disk; it never downloads anything itself. More settings: `ImageDataModule`.

    Args:
        root: Directory that holds the unpacked folder.
        copy: `official` compares checksums; `other` accepts a deliberate other copy and says so in `origin`.
        inexact: Under `copy="other"`, the images whose pixels are known to differ from the official ones, numbered
            over the training images and then the test images, from 0; `origin` counts them, and those of the test
            set are never among the images on which robustness is measured. None where nothing is known.

    Raises:
        UserError: if a setting is out of range; on reading, if a file is missing, truncated or altered.
    """

    cifar: ClassVar[CIFAR]

    root: str | Path
    class_names: Sequence[str] = field(init=False)
    copy: Copy = "official"
    inexact: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self.class_names = self.cifar.class_names
        super().__post_init__()
        if self.copy not in ("official", "other"):
            raise UserError(
                f"data.copy={self.copy!r} is unknown; choose official, or other for a deliberate other copy"
            )
        if self.image_size != 32:
            raise UserError(
                f"data.image_size={self.image_size}, but the images of CIFAR have 32 pixels; set it to that"
            )
        self.root = Path(self.root).expanduser()
        self.inexact = self.inexact if self.inexact is None else sorted({*self.inexact})
        self._check_inexact()

    def _check_inexact(self) -> None:
        if self.inexact is None:
            return
        if self.copy == "official":
            raise UserError("data.inexact is for other copies, but data.copy=official; set data.copy=other")
        train, total = self.cifar.count(self.cifar.train), self._total
        if wrong := [number for number in self.inexact if not 0 <= number < total]:
            raise UserError(f"data.inexact has {wrong[0]}; images are numbered from 0 to {total - 1}")
        self.excluded_test_images = [number - train for number in self.inexact if number >= train]

    @property
    def _total(self) -> int:
        return self.cifar.count([*self.cifar.train, *self.cifar.test])

    @property
    def origin(self) -> str:
        """The data set, and whether its files are the official ones."""
        files = "official files" if self.copy == "official" else "another copy (data.copy=other)"
        if self.inexact is not None:
            files = f"{self._total - len(self.inexact):,} of {self._total:,} images exact"
        return f"{self.cifar.title}, {files}"

    def load_train(self) -> Batch:
        """The official training images."""
        return read_cifar(self.cifar, Path(self.root), self.copy, train=True)

    def load_test(self) -> list[Split]:
        """The official test images."""
        images, labels = read_cifar(self.cifar, Path(self.root), self.copy, train=False)
        return [Split("test", images, labels, torch.arange(len(labels)))]


class CIFAR10DataModule(CIFARDataModule):
    """CIFAR-10. Source: https://www.cs.toronto.edu/~kriz/cifar.html."""

    cifar = CIFAR10


class CIFAR100DataModule(CIFARDataModule):
    """CIFAR-100 with its 100 fine labels. Source: https://www.cs.toronto.edu/~kriz/cifar.html."""

    cifar = CIFAR100
