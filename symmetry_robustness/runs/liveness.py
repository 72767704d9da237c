"""Signs of life in a run directory: its lock, the age of its files, its process."""

import fcntl
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from symmetry_robustness.runs.json_files import number, text

# A job rewrites progress.json every few seconds; no busy file system delays it by a minute.
_FRESH_S: Final = 60.0


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a run.

    `flock` cannot be queried, so a shared lock is acquired and released at once; a job that is refused in that moment
    must try again. Nothing is created and nothing blocks.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks; progress.json decides
        return False
    finally:
        os.close(lock)
    return False


def is_fresh(path: Path, updated: float | None = None) -> bool:
    """Whether a file was just written, by the file system's clock or the writer's (`updated`), which may disagree."""
    try:
        written = path.stat().st_mtime
    except OSError:
        return False
    now = time.time()
    return any(abs(now - moment) < _FRESH_S for moment in (written, updated or 0.0))


def has_ended_here(progress: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a progress.json ran on this machine and has ended."""
    pid = number(progress, "pid")
    if pid is not None and text(progress, "host") == socket.gethostname():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):  # another user's, or a number that is damaged
            pass
    return False
