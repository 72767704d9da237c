"""Tiny data sets in the official formats; only the number of images differs."""

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from symmetry_robustness.data.archives import CIFAR, CIFAR10, CIFAR100
from symmetry_robustness.data.corruptions import BENCHMARK, EXTRA
from symmetry_robustness.data.integrity import CHECKSUMS, digest

PER_FILE = 20


def shrink(cifar: CIFAR) -> CIFAR:
    """The same data set with 20 images in each file and two to ten classes' worth of labels."""
    record = cifar.label_bytes + 3072
    classes = cifar.class_names[:10]
    files = dict.fromkeys(cifar.binary.files, PER_FILE * record)
    return replace(
        cifar,
        class_names=classes,
        binary=replace(cifar.binary, files=files),
        train_images=PER_FILE * len(cifar.train),
        test_images=PER_FILE * len(cifar.test),
    )


def batch(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (20, 3072) and balanced labels (20,) of one file."""
    random = np.random.default_rng(index)
    return random.integers(0, 256, (PER_FILE, 3072), np.uint8), random.permutation(PER_FILE) % 10


def python2_pickle(pixels: np.ndarray, labels: np.ndarray, key: str) -> bytes:
    """What Python 2 wrote for `{key: list, "data": array}` with protocol 2, byte strings included."""

    def text(value: bytes) -> bytes:
        short = len(value) < 256
        return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value

    integers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    dtype += b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    shape = b"".join(b"J" + struct.pack("<i", length) for length in pixels.shape) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    return b"\x80\x02}(" + text(key.encode()) + integers + text(b"data") + array + b"u."


def record_checksums(directory: Path) -> None:
    """What the downloader leaves beside the files."""
    files = [path for path in directory.iterdir() if path.name != CHECKSUMS]
    content = {"sha256": {path.name: digest(path, "sha256") for path in files}}
    (directory / CHECKSUMS).write_text(json.dumps(content))


def write_binary(cifar: CIFAR, root: Path) -> Path:
    directory = root / cifar.binary.folder
    directory.mkdir(parents=True)
    for index, name in enumerate((*cifar.train, *cifar.test)):
        pixels, labels = batch(index)
        columns = [labels // 5, labels] if cifar.label_bytes == 2 else [labels]
        records = np.concatenate([np.stack(columns, 1).astype(np.uint8), pixels], 1)
        records.tofile(directory / f"{name}.bin")
    record_checksums(directory)
    return directory


def write_python(cifar: CIFAR, root: Path, *, by_python2: bool) -> Path:
    directory = root / cifar.python.folder
    directory.mkdir(parents=True)
    for index, name in enumerate((*cifar.train, *cifar.test)):
        pixels, labels = batch(index)
        if by_python2:
            content = python2_pickle(pixels, labels, cifar.label_key)
        else:
            content = pickle.dumps({"data": pixels, cifar.label_key: labels.tolist(), "batch_label": "x"}, protocol=2)
        (directory / name).write_bytes(content)
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
    return {"binary": write_binary, "python": write_python, "corrupted": write_corrupted}
