"""Files that are whole or not there, and locks."""

import gc
import resource
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from symmetry_robustness.files import lock, locked, replace_file
from symmetry_robustness.runs.exit_status import user_message


@pytest.mark.parametrize("content", ["text", b"text", memoryview(b"text"), lambda file: file.write(b"text")])
def test_a_file_is_replaced_whatever_its_content_comes_as(content: str, tmp_path: Path) -> None:
    replace_file(tmp_path / "new" / "file", "longer than what comes")
    replace_file(tmp_path / "new" / "file", content, durable=True)
    assert (tmp_path / "new" / "file").read_text() == "text"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    replace_file(tmp_path / "file", "old")
    with pytest.raises(ZeroDivisionError):
        replace_file(tmp_path / "file", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_disk_that_is_full_is_told_once(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            replace_file(tmp_path / "file.npz", lambda file: np.savez(file, zeros=np.zeros(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = str(user_message(caught.value))
    assert told.startswith(f"{tmp_path / 'file.npz'}: File too large; make room, or")
    assert list(tmp_path.iterdir()) == []
    del caught
    gc.collect()  # whatever else is said is a warning, and warnings are errors


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    waited = []
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError):
        lock(tmp_path / "lock")
    with locked(tmp_path / "lock", wait=lambda: waited.append(1)):
        pass
    assert waited == []
