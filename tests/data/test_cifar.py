"""CIFAR as a user sees it: the checks of its files, the splits, and the memory it takes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from symmetry_robustness.data import CIFAR10DataModule, CIFAR100DataModule
from symmetry_robustness.data.archives import CIFAR, CIFAR10, CIFAR100
from symmetry_robustness.data.integrity import CHECKSUMS
from symmetry_robustness.errors import UserError

from .conftest import write_binary


def make(root: Path, **settings: object) -> CIFAR10DataModule:
    return CIFAR10DataModule(**{"root": root, "num_classes": 10, "validation_size": 30, **settings})


def test_official_files_are_accepted(cifar10: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar10, tmp_path)
    images, labels, indices = make(tmp_path).subset("test", None, 0)
    assert images.shape == (20, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(indices, torch.arange(20))
    assert labels.bincount().tolist() == [2] * 10


def test_root_may_be_the_folder_itself(cifar10: CIFAR, tmp_path: Path) -> None:
    directory = write_binary(cifar10, tmp_path)
    make(directory).setup("fit")


def test_missing_data_name_the_command(cifar10: CIFAR, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"symrob data cifar10 --root {tmp_path}"):
        make(tmp_path).setup("fit")


def test_missing_file_is_named(cifar10: CIFAR, tmp_path: Path) -> None:
    (write_binary(cifar10, tmp_path) / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin is missing; run `symrob data cifar10 --root"):
        make(tmp_path, copy="other").setup("fit")


def test_truncated_file_is_named_with_both_sizes(cifar10: CIFAR, tmp_path: Path) -> None:
    path = write_binary(cifar10, tmp_path) / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin has 61,459 bytes, expected 61,460; run"):
        make(tmp_path, copy="other").setup("fit")  # before hours of training, not after


def test_altered_file_needs_the_explicit_setting(cifar10: CIFAR, tmp_path: Path) -> None:
    path = write_binary(cifar10, tmp_path) / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data_batch_2\.bin is not the official file: sha256 .*data\.copy=other"):
        make(tmp_path).setup("fit")
    accepted = make(tmp_path, copy="other")
    accepted.setup("fit")
    assert "another copy" in accepted.provenance


def test_files_of_unknown_origin_need_the_explicit_setting(cifar10: CIFAR, tmp_path: Path) -> None:
    (write_binary(cifar10, tmp_path) / CHECKSUMS).unlink()
    with pytest.raises(
        UserError, match=r"nothing shows that .*data_batch_1\.bin is the official file.*data\.copy=other"
    ):
        make(tmp_path).setup("fit")


def test_damaged_record_of_checksums_is_named(cifar10: CIFAR, tmp_path: Path) -> None:
    (write_binary(cifar10, tmp_path) / CHECKSUMS).write_text("{")
    with pytest.raises(UserError, match="is no record of checksums"):
        make(tmp_path).setup("fit")


@pytest.mark.parametrize(("label", "message"), [(10, "labels 0 to 10, expected 0 to 9"), (3, "images of a class")])
def test_wrong_labels_are_refused_in_any_copy(label: int, message: str, cifar10: CIFAR, tmp_path: Path) -> None:
    path = write_binary(cifar10, tmp_path) / "data_batch_1.bin"
    records = np.fromfile(path, np.uint8).reshape(20, -1)
    records[(records[:, 0] == 5).argmax(), 0] = label
    records.tofile(path)
    with pytest.raises(UserError, match=message):
        make(tmp_path, copy="other").setup("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 100}, "num_classes=100"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"validation_size": -1}, "validation_size must not be negative"),
        ({"copy": "jpeg"}, "copy='jpeg' is unknown"),
        ({"validation_size": 100}, "validation_size=100"),
        ({"train_size": 71}, "train_size=71"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str, cifar10: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar10, tmp_path)
    with pytest.raises(UserError, match=message):
        make(tmp_path, **settings).setup("fit")


def test_splits_are_disjoint_seeded_and_complete(cifar10: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar10, tmp_path)

    def rows(split: str, **settings: object) -> set[int]:
        return set(make(tmp_path, **settings).subset(split, None, 0)[2].tolist())

    train, validation = rows("train"), rows("validation")
    assert len(validation) == 30
    assert train | validation == set(range(100))
    assert not train & validation
    assert rows("validation", seed=1) != validation
    assert rows("validation", train_size=10) == validation
    assert rows("train", train_size=10) < train
    assert rows("train", validation_size=0) == set(range(100))


def test_without_validation_images_there_is_no_loader(cifar10: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar10, tmp_path)
    data = make(tmp_path, validation_size=0)
    assert data.val_dataloader() == []
    with pytest.raises(UserError, match="validation_size=0"):
        data.subset("validation", 10, 0)


def test_subset_is_fixed_and_its_indices_are_true(cifar10: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar10, tmp_path)
    images, labels, indices = make(tmp_path).subset("validation", 8, 3)
    again = make(tmp_path, batch_size=5).subset("validation", 8, 3)
    assert torch.equal(indices, again[2])
    assert not torch.equal(indices, make(tmp_path).subset("validation", 8, 4)[2])
    everything, every_label = make(tmp_path).load_train()
    assert torch.equal(images, everything[indices] / 255)
    assert torch.equal(labels, every_label[indices])
    with pytest.raises(UserError, match="choose 1 to 30"):
        make(tmp_path).subset("validation", 31, 0)


def test_class_names() -> None:
    for cifar, classes, first, last in ((CIFAR10, 10, "airplane", "truck"), (CIFAR100, 100, "apple", "worm")):
        assert len(set(cifar.class_names)) == classes
        assert (cifar.class_names[0], cifar.class_names[-1]) == (first, last)
    assert sorted(CIFAR100.class_names) == list(CIFAR100.class_names)
    with pytest.raises(UserError, match="has 100"):
        CIFAR100DataModule(root="data", num_classes=10)


def test_full_size_files_stay_uint8_and_are_held_once(tmp_path: Path) -> None:
    directory = tmp_path / CIFAR10.archive.folder
    directory.mkdir()
    for name, size in CIFAR10.archive.files.items():
        records = np.zeros((10_000, 3073), np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records[:, 1] = np.arange(10_000) % 251
        records.tofile(directory / name)
        assert (directory / name).stat().st_size == size
    data = CIFAR10DataModule(root=tmp_path, num_classes=10, copy="other")
    data.setup("fit")
    data.setup("test")
    (train,), (validation,), (test,) = (data._splits[name] for name in ("train", "validation", "test"))
    assert train.images.data_ptr() == validation.images.data_ptr()
    storages = {
        part.untyped_storage().data_ptr(): part.nbytes for part in (train.images, validation.images, test.images)
    }
    assert sum(storages.values()) == 60_000 * 3072
    assert (len(train), len(validation), len(test)) == (45_000, 5_000, 10_000)
    assert torch.equal(train.images[:, 0, 0, 0], (torch.arange(50_000) % 10_000 % 251).to(torch.uint8))


def test_inexact_images_of_a_copy_are_counted_and_never_judged(cifar10: CIFAR, tmp_path: Path) -> None:
    write_binary(cifar10, tmp_path)
    first_test = cifar10.count(cifar10.train)
    module = make(tmp_path, copy="other", inexact=[3, first_test + 2, first_test + 19])
    total = first_test + cifar10.count(cifar10.test)
    assert module.provenance == f"CIFAR-10, {total - 3} of {total} images exact"
    assert module.subset("test", None, 0)[2].tolist() == [n for n in range(20) if n not in (2, 19)]
    with pytest.raises(UserError, match="choose 1 to 18"):
        module.subset("test", 19, 0)
    module.setup("fit")
    assert len(module.subset("train", None, 0)[2]) == first_test - 30  # training keeps them


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"inexact": [0]}, "data.copy=other"), ({"copy": "other", "inexact": [-1]}, "data.inexact has -1")],
)
def test_inexact_images_must_exist_and_be_of_another_copy(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(Path("data"), **settings)
