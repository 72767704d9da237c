"""The official binary and Python layouts of CIFAR, read into one preallocated tensor."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
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


def read_python(path: Path, images: Tensor, labels: Tensor, label_key: str) -> None:
    """Fill tensors from a pickled dictionary without running anything that the pickle asks for.

    Args:
        path: A batch file of the Python version.
        images: uint8 (N, 3, 32, 32), overwritten.
        labels: int64 (N,), overwritten.
        label_key: `labels` for CIFAR-10, `fine_labels` for CIFAR-100.

    Raises:
        UserError: if the file is damaged, holds anything but plain data and one uint8 array, or not N images.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Python / Matlab versions".
    """
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
        # Python 2 wrote the keys as byte strings.
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        pixels, classes = content["data"].array(), content[label_key]
        if pixels.shape != (len(labels), PIXELS) or len(classes) != len(labels):
            raise ValueError(f"data of shape {pixels.shape} and {len(classes)} labels, expected {len(labels)} images")
        images.view(-1, PIXELS).numpy()[:] = pixels
        labels.numpy()[:] = np.asarray(classes, np.int64)
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a CIFAR batch ({reason}); download it again") from error


class _PlainArray:
    """Stands for a numpy array in the pickle; keeps what the pickle says of it."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> npt.NDArray[np.uint8]:
        """The uint8 array."""
        _, shape, dtype, fortran, raw = self.state
        if dtype.name not in ("u1", b"u1") or not isinstance(raw, bytes):
            raise ValueError(f"array of type {dtype.name!r}, expected u1")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _PlainType:
    """Stands for a numpy dtype in the pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields, which a uint8 does not have."""


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}, expected latin1")
    return text.encode("latin1")


def _reconstruct(*_: Any) -> _PlainArray:
    return _PlainArray()


# All that the files name; each is replaced by code of this module, so nothing of numpy sees the pickle's values either.
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _PlainArray,
    ("numpy", "dtype"): _PlainType,
    ("_codecs", "encode"): _latin1,
}


class _PlainUnpickler(pickle.Unpickler):
    """Loads plain Python values and uint8 arrays; any other name in the file is refused before it is looked up."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}")
        return _ADMITTED[module, name]
