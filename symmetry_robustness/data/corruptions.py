"""CIFAR-10-C and CIFAR-100-C: the clean training images, and the test images corrupted in many ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from symmetry_robustness.corruption_names import BENCHMARK, EXTRA, SEVERITIES
from symmetry_robustness.data.archives import CIFAR, CIFAR10, CIFAR100
from symmetry_robustness.data.cifar import CIFARDataModule, read_cifar
from symmetry_robustness.data.integrity import Archive, check_files, find_directory
from symmetry_robustness.data.loaders import Split
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked

_GROUPS = {"benchmark": BENCHMARK, "extra": EXTRA, "all": BENCHMARK + EXTRA}


def _archive(title: str, command: str, record: int) -> Archive:
    files = dict.fromkeys([*(f"{name}.npy" for name in BENCHMARK + EXTRA), "labels.npy"])
    return Archive(command=command, filename=f"{title}.tar", folder=title, files=files, record=record)


CIFAR10C_ARCHIVE = _archive("CIFAR-10-C", "cifar10c", 2535967)
CIFAR100C_ARCHIVE = _archive("CIFAR-100-C", "cifar100c", 3555552)


def _load_array(path: Path) -> Tensor:
    """A saved array as a tensor over the mapped file; nothing is read before it is indexed."""
    try:
        # Copy on write, because torch warns of tensors that cannot be written; nothing writes, so nothing is copied.
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(
            f"{path} is truncated or no array ({' '.join(str(error).split())}); download it again"
        ) from error


def read_corruption(path: Path, clean: Tensor, severities: Sequence[int]) -> list[Split]:
    """The images of one corruption, a split for each severity, mapped from the file.

    Args:
        path: An array of uint8 (5 N, 32, 32, 3): N images of severity 1, then N of severity 2, and so on.
        clean: Labels of the N clean test images.
        severities: Which of 1 to 5, in the order wanted.

    Raises:
        UserError: if the array has another shape or type.
    """
    images = _load_array(path)
    expected = (len(SEVERITIES) * len(clean), 32, 32, 3)
    if tuple(images.shape) != expected or images.dtype != torch.uint8:
        raise UserError(
            f"{path} holds {images.dtype} {tuple(images.shape)}, expected uint8 {expected}; download it again"
        )
    images = images.permute(0, 3, 1, 2)
    parts, rows = torch.split(images, len(clean)), torch.arange(len(clean))
    return [Split(f"{path.stem}_{severity}", parts[severity - 1], clean, rows) for severity in severities]


@checked
@dataclass(kw_only=True, eq=False, repr=False)
class CorruptedCIFARDataModule(CIFARDataModule):
    """Trains on the clean images, tests on corruption × severity, a test loader for each. More: `CIFARDataModule`.

    Args:
        root: Directory that holds both unpacked folders, the clean and the corrupted one.
        corruptions: `benchmark` (15), `extra` (4), `all` (19), or names.
        severities: Of 1 (weak) to 5 (strong).
        copy: `official` compares checksums; `other` accepts a deliberate other copy of either folder.

    Raises:
        UserError: if a setting is out of range; on reading, if a file is missing, truncated or altered.
    """

    archive: ClassVar[Archive]

    corruptions: str | Sequence[str] = "benchmark"
    severities: Sequence[int] = SEVERITIES

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = [self.corruptions] if isinstance(self.corruptions, str) else self.corruptions
        self.corruptions = tuple(dict.fromkeys(member for name in wanted for member in _GROUPS.get(name, (name,))))
        self.severities = tuple(dict.fromkeys(self.severities))
        if unknown := [name for name in self.corruptions if name not in _GROUPS["all"]]:
            raise UserError(
                f"data.corruptions={unknown[0]!r} is unknown; "
                f"choose benchmark, extra, all or some of {', '.join(_GROUPS['all'])}"
            )
        if wrong := [severity for severity in self.severities if severity not in SEVERITIES]:
            raise UserError(f"data.severities={wrong[0]!r} is unknown; choose from 1 to 5")
        if not self.corruptions or not self.severities:
            raise UserError("data.corruptions and data.severities must not be empty; choose at least one of each")

    @property
    def test_sets(self) -> list[str]:
        """`gaussian_noise_1`, `gaussian_noise_2` and so on."""
        return [f"{corruption}_{severity}" for corruption in self.corruptions for severity in self.severities]

    @property
    def origin(self) -> str:
        """Both data sets, and whether their files are the official ones."""
        return f"{self.archive.folder}, trained on {super().origin}"

    def load_test(self) -> list[Split]:
        """The corrupted images, mapped from their files, in the order of `test_sets`."""
        root = Path(self.root)
        directory = find_directory(self.archive, root)
        check_files(self.archive, directory, [f"{name}.npy" for name in ("labels", *self.corruptions)], self.copy)
        _, clean = read_cifar(self.cifar, root, self.copy, train=False)
        path = directory / "labels.npy"
        if not torch.equal(_load_array(path).to(torch.int64), clean.repeat(len(SEVERITIES))):
            raise UserError(
                f"{path} does not repeat the {len(clean)} clean test labels {len(SEVERITIES)} times; download it again"
            )
        paths = [directory / f"{name}.npy" for name in self.corruptions]
        return [split for path in paths for split in read_corruption(path, clean, self.severities)]


class CIFAR10C(CorruptedCIFARDataModule):
    """CIFAR-10-C. Source: arXiv 1903.12261; https://zenodo.org/records/2535967."""

    cifar: ClassVar[CIFAR] = CIFAR10
    archive = CIFAR10C_ARCHIVE


class CIFAR100C(CorruptedCIFARDataModule):
    """CIFAR-100-C. Source: arXiv 1903.12261; https://zenodo.org/records/3555552."""

    cifar: ClassVar[CIFAR] = CIFAR100
    archive = CIFAR100C_ARCHIVE
