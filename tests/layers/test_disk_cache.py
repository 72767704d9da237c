import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from symmetry_robustness.layers import disk_cache as kernel_cache
from symmetry_robustness.layers.basis import steerable_basis
from symmetry_robustness.layers.disk_cache import cache_folder
from tests import fork_server

ARGUMENTS = ("C4", "trivial", "regular", 3)
BUILD = """
import sys
from symmetry_robustness.layers.basis import steerable_basis
basis = steerable_basis("C4", "regular", "regular", 3)
print("escnn" in sys.modules, float(basis.filters.double().sum()))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMMETRY_ROBUSTNESS_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def basis():
    return steerable_basis.__wrapped__  # as a process would find it that has not asked before


def same(left, right):
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


def test_is_read_the_second_time(basis, folder, monkeypatch):
    first = basis(*ARGUMENTS)
    (file,) = folder.iterdir()
    assert file.suffix == ".npz"
    monkeypatch.setattr("symmetry_robustness.layers.basis._computed_basis", None)
    assert same(basis(*ARGUMENTS), first)


@pytest.mark.parametrize(
    "other", [("C8", *ARGUMENTS[1:]), ("C4", "regular", "regular", 3), ("C4", "trivial", "regular", 5)]
)
def test_other_settings_have_files_of_their_own(basis, folder, other):
    basis(*ARGUMENTS)
    basis(*other)
    assert len(list(folder.iterdir())) == 2


def test_another_escnn_or_format_has_files_of_its_own(basis, folder, monkeypatch):
    basis(*ARGUMENTS)
    monkeypatch.setattr("symmetry_robustness.layers.basis._escnn_version", lambda group: "0.0")
    basis(*ARGUMENTS)
    monkeypatch.setattr("symmetry_robustness.layers.basis.BASIS_FORMAT", -1)
    basis(*ARGUMENTS)
    assert len(list(folder.iterdir())) == 3


def broken_zip(good: bytes) -> bytes:
    middle = len(good) // 2
    return good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda good: b"", lambda good: b"nonsense", lambda good: good[: len(good) // 2], broken_zip],
    ids=["empty", "nonsense", "short", "flipped"],
)
def test_a_damaged_file_is_replaced(basis, folder, damage, caplog):
    first = basis(*ARGUMENTS)
    (file,) = folder.iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    with caplog.at_level(logging.DEBUG):
        assert same(basis(*ARGUMENTS), first)
    assert all(record.levelno == logging.DEBUG for record in caplog.records)
    assert caplog.records
    with np.load(file) as repaired:
        assert set(repaired) == {"filters", "deviation"}


@pytest.mark.parametrize(
    "contents",
    [
        {"filters": np.zeros((6, 4, 1, 3, 3), np.float32)},
        {"filters": np.zeros((6, 4, 2, 3, 3), np.float32), "deviation": np.ones(6, np.float32)},
        {"filters": np.zeros((6, 4, 1, 3, 3)), "deviation": np.ones(6)},
        {"filters": np.full((6, 4, 1, 3, 3), np.nan, np.float32), "deviation": np.ones(6, np.float32)},
    ],
)
def test_a_file_with_other_contents_is_replaced(basis, folder, contents):
    first = basis(*ARGUMENTS)
    (file,) = folder.iterdir()
    np.savez(file, **contents)
    assert same(basis(*ARGUMENTS), first)
    assert same(basis(*ARGUMENTS), first)


class _Harm:
    def __reduce__(self):
        return os.mkdir, (str(cache_folder() / "harm"),)


def test_a_file_runs_no_code(basis, folder):
    first = basis(*ARGUMENTS)
    (file,) = folder.iterdir()
    np.savez(file, filters=np.array([_Harm()], dtype=object), deviation=np.ones(6, np.float32))
    assert same(basis(*ARGUMENTS), first)
    assert not (folder / "harm").exists()


def test_a_folder_that_cannot_be_used_changes_nothing(basis, folder, monkeypatch):
    first = basis(*ARGUMENTS)
    blocked = folder.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("SYMMETRY_ROBUSTNESS_CACHE", str(blocked))  # no folder, whoever runs the test
    assert same(basis(*ARGUMENTS), first)
    monkeypatch.delenv("SYMMETRY_ROBUSTNESS_CACHE")
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert same(basis(*ARGUMENTS), first)


def test_an_interrupted_write_leaves_nothing(basis, folder, monkeypatch):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        basis(*ARGUMENTS)
    assert list(folder.glob("*")) == []


def test_lies_where_the_platform_keeps_caches(monkeypatch, tmp_path):
    assert cache_folder() == Path(os.environ[kernel_cache.VARIABLE])
    monkeypatch.delenv(kernel_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "symmetry_robustness"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "symmetry_robustness"


def test_processes_that_start_together_agree_and_later_ones_need_no_escnn(folder):
    def start():
        return fork_server.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, text=True)

    together = [process.communicate()[0].split() for process in [start(), start()]]
    assert [words[0] for words in together] == ["True", "True"]
    assert [file.suffix for file in folder.iterdir()] == [".npz"]
    later = start().communicate()[0].split()
    assert later[0] == "False"
    assert {words[1] for words in together} == {later[1]}


def test_the_largest_group_takes_seconds_and_then_none(basis):
    start = time.process_time()
    basis("D8", "regular", "regular", 5)
    computed = time.process_time()
    basis("D8", "regular", "regular", 5)
    assert computed - start < 5
    assert time.process_time() - computed < 0.5
