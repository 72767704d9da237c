"""Both official layouts give the same tensors, and no pickle runs."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from symmetry_robustness.data.archives import CIFAR
from symmetry_robustness.data.cifar import read_cifar
from symmetry_robustness.data.cifar_format import read_python
from symmetry_robustness.errors import UserError

from .conftest import PER_FILE, batch, python2_pickle, write_binary, write_python


def expected(cifar: CIFAR, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    indices = range(len(cifar.train)) if train else range(len(cifar.train), len(cifar.train) + 1)
    pixels, labels = zip(*map(batch, indices), strict=True)
    return torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32), torch.from_numpy(np.concatenate(labels))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("layout", ["binary", "python2", "python3"])
@pytest.mark.parametrize("train", [True, False])
def test_layouts_agree(name: str, layout: str, train: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cifar = request.getfixturevalue(name)
    if layout == "binary":
        write_binary(cifar, tmp_path)
    else:
        write_python(cifar, tmp_path, by_python2=layout == "python2")
    images, labels = read_cifar(cifar, tmp_path, "other", train=train)
    wanted_images, wanted_labels = expected(cifar, train=train)
    assert torch.equal(images, wanted_images)
    assert torch.equal(labels, wanted_labels)


def test_handwritten_pickle_is_what_numpy_understands() -> None:
    pixels, labels = batch(0)
    content = pickle.loads(python2_pickle(pixels, labels, "labels"), encoding="bytes")
    assert np.array_equal(content[b"data"], pixels)
    assert content[b"labels"] == labels.tolist()


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path, victim = tmp_path / "data_batch_1", tmp_path / "victim"
    path.write_bytes(pickle.dumps({"data": Malicious(victim), "labels": [0] * PER_FILE}))
    images, labels = torch.empty(PER_FILE, 3, 32, 32, dtype=torch.uint8), torch.empty(PER_FILE, dtype=torch.int64)
    with pytest.raises(UserError, match=r"asks to run \w+\.mkdir"):
        read_python(path, images, labels, "labels")
    assert not victim.exists()
    pickle.loads(path.read_bytes())  # the attack is real: the ordinary reader falls for it
    assert victim.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": 3, "labels": []}),
        pickle.dumps({"labels": [0] * PER_FILE}),
        pickle.dumps({"data": np.zeros((PER_FILE, 3072), np.float32), "labels": [0] * PER_FILE}, protocol=2),
        pickle.dumps({"data": np.zeros((PER_FILE - 1, 3072), np.uint8), "labels": [0] * PER_FILE}, protocol=2),
        pickle.dumps({"data": np.zeros((PER_FILE, 3072), np.uint8), "labels": [0] * PER_FILE}, protocol=2)[:-1000],
        pickle.dumps({"data": np.zeros((PER_FILE, 3072), np.uint8), "labels": ["a"] * PER_FILE}, protocol=2),
    ],
)
def test_damaged_pickles_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(content)
    images, labels = torch.empty(PER_FILE, 3, 32, 32, dtype=torch.uint8), torch.empty(PER_FILE, dtype=torch.int64)
    with pytest.raises(UserError, match="test_batch is not a CIFAR batch"):
        read_python(path, images, labels, "labels")
