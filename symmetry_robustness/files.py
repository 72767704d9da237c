"""Files that are whole or not there, and locks: what every part does to a disk that others read at the same time."""

import contextlib
import fcntl
import io
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Literal

from symmetry_robustness.errors import UserError

# As any of these a damaged or missing archive (zip, npz) surfaces, depending on the byte.
DAMAGED_ARCHIVE = (
    *(OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    MemoryError,  # a header may state any size
)

_REMEDIES: Final = {
    "checkpoint": "give a .ckpt of a run directory's checkpoints/",
    "weights": "give the file of a network's state dict (.pt, .pth or .safetensors)",
}

Content = bytes | memoryview | str | Callable[[IO[bytes]], object]


def require_file(kind: Literal["checkpoint", "weights"], path: Path) -> None:
    """Refuse a file of weights that is not there.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{kind} {path} is no file; {_REMEDIES[kind]}")


def replace_file(path: Path, content: Content, *, durable: bool = False) -> None:
    """Put a file in its place in one step, so that neither a reader nor a kill ever meets half of it.

    Args:
        path: of the file; its folder is made if need be.
        content: of the file, or what writes it.
        durable: whether it must outlast a crash of the machine, too, which takes its time.

    Raises:
        OSError: names the file; as it was, if there was one, it is still there.
    """
    if callable(content):
        made = io.BytesIO()  # a writer of archives that met a full disk would complain once more when it is deleted
        content(made)
        content = made.getbuffer()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unused(path)
    try:
        with unfinished.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()  # a full disk has better uses
        if isinstance(error, OSError) and error.filename2 is None and error.filename in (None, str(unfinished)):
            error.filename = str(path)  # a write that fails names no file, and the hidden one says little
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process has left half written; nobody may be writing into the folder."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def unused(path: Path) -> Path:
    """A hidden name beside a path that no other process has, on whatever machine."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def lock(path: Path, *, wait: Callable[[], object] | None = None) -> int:
    """Lock a file, which is made if need be, until its descriptor is closed or this process ends.

    Args:
        path: of the file.
        wait: called if another process holds the lock, which is waited for then; None does not wait.

    Returns:
        The descriptor.

    Raises:
        BlockingIOError: another process holds it, and there is no waiting.
        OSError: the file cannot be made, or its file system knows no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                raise
            wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(path: Path, *, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock in a context; see `lock`."""
    descriptor = lock(path, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)
