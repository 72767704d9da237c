"""Tiny data sets in the official formats; only the number of images differs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from symmetry_robustness.corruption_names import BENCHMARK, EXTRA
from symmetry_robustness.data.archives import CIFAR, CIFAR10, CIFAR100
from symmetry_robustness.data.integrity import CHECKSUMS, digest

PER_FILE = 20


def shrink(cifar: CIFAR) -> CIFAR:
    """The same data set with 20 images in each file and two to ten classes' worth of labels."""
    record = cifar.label_bytes + 3072
    classes = cifar.class_names[:10]
    files = dict.fromkeys(cifar.archive.files, PER_FILE * record)
    return replace(
        cifar,
        class_names=classes,
        archive=replace(cifar.archive, files=files),
    )


def batch(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (20, 3072) and balanced labels (20,) of one file."""
    random = np.random.default_rng(index)
    return random.integers(0, 256, (PER_FILE, 3072), np.uint8), random.permutation(PER_FILE) % 10


def record_checksums(directory: Path) -> None:
    """Files that the downloader leaves beside the data."""
    files = [path for path in directory.iterdir() if path.name != CHECKSUMS]
    content = {"sha256": {path.name: digest(path, "sha256") for path in files}}
    (directory / CHECKSUMS).write_text(json.dumps(content))


def write_binary(cifar: CIFAR, root: Path) -> Path:
    directory = root / cifar.archive.folder
    directory.mkdir(parents=True)
    for index, name in enumerate((*cifar.train, *cifar.test)):
        pixels, labels = batch(index)
        columns = [labels // 5, labels] if cifar.label_bytes == 2 else [labels]
        records = np.concatenate([np.stack(columns, 1).astype(np.uint8), pixels], 1)
        records.tofile(directory / f"{name}")
    record_checksums(directory)
    return directory


def write_corrupted(folder: str, root: Path, labels: np.ndarray) -> Path:
    """Every pixel of corruption c, severity s, image i is (10 c + s + i) mod 256."""
    directory = root / folder
    directory.mkdir(parents=True)
    image = np.arange(5 * PER_FILE) % PER_FILE + np.arange(5 * PER_FILE) // PER_FILE + 1
    for index, name in enumerate(BENCHMARK + EXTRA):
        pixels = np.broadcast_to(((10 * index + image) % 256).astype(np.uint8)[:, None, None, None], (100, 32, 32, 3))
        np.save(directory / f"{name}.npy", pixels)
    np.save(directory / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    record_checksums(directory)
    return directory


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> CIFAR:
    """A tiny CIFAR-10, in effect for every data module."""
    return _install("CIFAR10", shrink(CIFAR10), monkeypatch)


@pytest.fixture
def cifar100(monkeypatch: pytest.MonkeyPatch) -> CIFAR:
    """A tiny CIFAR-100 with ten classes, in effect for every data module."""
    return _install("CIFAR100", shrink(CIFAR100), monkeypatch)


def _install(name: str, tiny: CIFAR, monkeypatch: pytest.MonkeyPatch) -> CIFAR:
    monkeypatch.setattr(f"symmetry_robustness.data.cifar.{name}DataModule.cifar", tiny)
    monkeypatch.setattr(f"symmetry_robustness.data.corruptions.{name}C.cifar", tiny)
    return tiny


@pytest.fixture
def writers() -> dict[str, Callable[..., Path]]:
    return {"binary": write_binary, "corrupted": write_corrupted}
