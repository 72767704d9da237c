"""The official layout gives the images and labels that were written, in their order."""

from pathlib import Path

import numpy as np
import pytest
import torch

from symmetry_robustness.data.archives import CIFAR
from symmetry_robustness.data.cifar import read_cifar

from .conftest import batch, write_binary


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("train", [True, False])
def test_files_are_read_in_order(name: str, train: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cifar: CIFAR = request.getfixturevalue(name)
    write_binary(cifar, tmp_path)
    files = range(len(cifar.train)) if train else range(len(cifar.train), len(cifar.train) + 1)
    pixels, classes = zip(*map(batch, files), strict=True)
    images, labels = read_cifar(cifar, tmp_path, "other", train=train)
    assert torch.equal(images, torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32))
    assert torch.equal(labels, torch.from_numpy(np.concatenate(classes)))
