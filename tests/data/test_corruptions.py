"""The right slices with the right labels, and nothing read before it is needed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from symmetry_robustness.corruption_names import BENCHMARK, EXTRA
from symmetry_robustness.data import CIFAR10C, CIFAR100C
from symmetry_robustness.data.archives import CIFAR
from symmetry_robustness.errors import UserError

from .conftest import PER_FILE, batch, record_checksums, write_binary, write_corrupted


@pytest.fixture
def root(cifar10: CIFAR, tmp_path: Path) -> Path:
    write_binary(cifar10, tmp_path)
    write_corrupted("CIFAR-10-C", tmp_path, batch(5)[1])
    return tmp_path


def make(root: Path, **settings: object) -> CIFAR10C:
    return CIFAR10C(**{"root": root, "num_classes": 10, "validation_size": 10, **settings})


def test_slices_and_labels_are_right(root: Path) -> None:
    data = make(root, corruptions="all", evaluation_batch_size=7)
    loaders = data.test_dataloader()
    names = [f"{name}_{severity}" for name in BENCHMARK + EXTRA for severity in range(1, 6)]
    assert data.test_names == names
    for place, loader in enumerate(loaders):
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        corruption, severity = divmod(place, 5)
        expected = (10 * corruption + severity + 1 + torch.arange(PER_FILE)) % 256
        assert torch.equal(images, expected.to(torch.uint8)[:, None, None, None].expand(PER_FILE, 3, 32, 32))
        assert labels.tolist() == batch(5)[1].tolist()


def test_channels_are_moved_in_front(root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
    np.save(root / "CIFAR-10-C" / "fog.npy", pixels)
    images, _, indices = make(root, corruptions="fog", severities=[4], copy="other").subset("test", None, 0)
    assert torch.equal(images, torch.from_numpy(pixels[60:80].transpose(0, 3, 1, 2)) / 255)
    assert indices.tolist() == list(range(20))


def test_choice_of_corruptions_and_severities(root: Path) -> None:
    assert len(make(root).test_names) == 15 * 5
    assert len(make(root, corruptions="extra").test_names) == 4 * 5
    assert make(root, corruptions=["snow", "fog"], severities=[5, 1]).test_names == [
        "snow_5",
        "snow_1",
        "fog_5",
        "fog_1",
    ]


def test_subset_is_drawn_from_all_test_sets(root: Path) -> None:
    data = make(root, corruptions=["gaussian_noise", "shot_noise"], severities=[1, 5])
    images, labels, indices = data.subset("test", 50, 0)
    assert indices.max() > 60
    place, row = indices // PER_FILE, indices % PER_FILE
    expected = 10 * (place // 2) + torch.tensor([1, 5])[place % 2] + row
    assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), expected)
    assert torch.equal(labels, torch.from_numpy(batch(5)[1])[row])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": "rain"}, "corruptions='rain' is unknown"),
        ({"corruptions": []}, "must not be empty"),
        ({"severities": [6]}, "severities=6 is unknown"),
        ({"severities": []}, "must not be empty"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(Path("data"), **settings)


def test_missing_corrupted_files_are_named_before_training(cifar10: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar10, tmp_path)
    with pytest.raises(UserError, match="symrob data cifar10c --root"):
        make(tmp_path).setup("fit")


def test_only_chosen_corruptions_are_needed(root: Path) -> None:
    (root / "CIFAR-10-C" / "snow.npy").unlink()
    make(root, corruptions=["fog"]).setup("test")
    with pytest.raises(UserError, match=r"snow\.npy is missing"):
        make(root, corruptions=["snow"]).setup("test")


def damage(path: Path, kind: str) -> None:
    pixels = np.load(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "shape":
        np.save(path, pixels[:80])
    elif kind == "type":
        np.save(path, pixels.astype(np.float32))
    elif kind == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("kind", ["truncated", "shape", "type", "pickle", "empty"])
def test_damaged_arrays_are_named(kind: str, root: Path) -> None:
    damage(root / "CIFAR-10-C" / "fog.npy", kind)
    with pytest.raises(UserError, match=r"fog\.npy is not the official file"):
        make(root).setup("test")
    with pytest.raises(UserError, match=r"fog\.npy (is truncated or no array|holds)"):
        make(root, copy="other").setup("test")


def test_labels_must_repeat_the_clean_ones(root: Path) -> None:
    path = root / "CIFAR-10-C" / "labels.npy"
    np.save(path, np.roll(np.load(path), 1))
    record_checksums(path.parent)
    with pytest.raises(UserError, match=r"labels\.npy does not repeat the 20 clean test labels"):
        make(root).setup("test")


def test_cifar100c(cifar100: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar100, tmp_path)
    write_corrupted("CIFAR-100-C", tmp_path, batch(1)[1])
    data = CIFAR100C(root=tmp_path, num_classes=10, validation_size=0, corruptions="fog")
    assert "CIFAR-100-C" in data.provenance
    data.setup("test")
