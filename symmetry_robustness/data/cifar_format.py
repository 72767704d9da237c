"""The official binary layout of CIFAR, read into one preallocated tensor."""

from pathlib import Path

import numpy as np
from torch import Tensor

from symmetry_robustness.errors import UserError

PIXELS = 3 * 32 * 32


def read_binary(path: Path, images: Tensor, labels: Tensor, label_bytes: int) -> None:
    """Fill tensors from records of label bytes and 3,072 channel-first pixels; the last label byte is the class.

    Args:
        path: A `.bin` file.
        images: uint8 (N, 3, 32, 32), overwritten.
        labels: int64 (N,), overwritten.
        label_bytes: 1 for CIFAR-10, 2 (coarse, fine) for CIFAR-100.

    Raises:
        UserError: if the file does not hold N records.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    expected = len(labels) * (label_bytes + PIXELS)
    if path.stat().st_size != expected:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, expected {expected:,}; download it again")
    # Mapped, so that the copy into the tensor is the only one in memory.
    records = np.memmap(path, np.uint8, "r", shape=(len(labels), label_bytes + PIXELS))
    images.view(-1, PIXELS).numpy()[:] = records[:, label_bytes:]
    labels.numpy()[:] = records[:, label_bytes - 1]
