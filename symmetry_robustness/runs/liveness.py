"""Signs of life in a run directory, whose files another process may be writing, or have left half written."""

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

# A job rewrites progress.json every few seconds; a minute of them missed is no delay of a busy file system any more.
_FRESH: Final = 60.0
_LARGEST: Final = 2**20  # bytes; what a job writes about itself is a thousandth of it
_LAST: Final = 2**13
_LARGEST_PID: Final = 2**31
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where there is none, empty where it is damaged, unreadable or no mapping."""
    try:
        content = json.loads(_read(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def number(content: Mapping[str, Any], name: str) -> float | None:
    """A number of a mapping; None where it is missing, no number or not finite."""
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        return None
    return value


def text(content: Mapping[str, Any], name: str) -> str | None:
    """A word of a mapping, or a number in its place; None where there is neither."""
    value = content.get(name)
    return one_line(str(value)) or None if isinstance(value, str | int) else None


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a run.

    A shared lock is asked for and given back at once; a job that wants the lock in this very moment and is refused
    must therefore ask again. Nothing is created, and no lock is ever waited for.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: progress.json must do
        return False
    finally:
        os.close(lock)
    return False


def is_fresh(path: Path, updated: float | None = None) -> bool:
    """Whether a file was just written: by the file system's clock, or by the writer's, for the two may disagree.

    Args:
        path: of the file.
        updated: when it was written by the writer's clock, in seconds since 1970.
    """
    try:
        written = path.stat().st_mtime
    except OSError:
        return False
    now = time.time()
    return any(abs(now - moment) < _FRESH for moment in (written, updated or 0.0))


def has_ended_here(progress: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a progress.json ran on this machine and runs no more: its file is no sign then."""
    pid = number(progress, "pid")
    if pid is None or not 0 < pid < _LARGEST_PID or text(progress, "host") != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False


def last_line(path: Path) -> str | None:
    """The last line of a file that is not empty, of at most some thousand characters; None where there is none."""
    try:
        end = _read(path, _LAST)
    except OSError:
        return None
    lines = [one_line(line) for line in end.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), None)


def one_line(words: str) -> str:
    """Text for a terminal: one line, without control characters."""
    line = " ".join(_ESCAPES.sub("", words).split())
    return "".join(character for character in line if character.isprintable())


def _read(path: Path, last: int | None = None) -> bytes:
    """A file, or its last bytes; without blocking, whatever may lie in its place.

    Raises:
        OSError: it is not there, cannot be read or is too large.
    """
    # A fifo would block `open` for ever, a device be read for ever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if last is not None:
            file.seek(max(0, size - last))
        elif size > _LARGEST:
            raise OSError(f"{path} is too large")
        return file.read(_LARGEST)
