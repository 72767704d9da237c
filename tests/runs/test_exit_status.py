import errno
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import replace_file
from symmetry_robustness.runs.exit_status import run_guarded, user_message


def test_a_mistake_is_one_line_wherever_it_was_raised(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        try:
            raise UserError("epsilon must be positive,\n  got -1")
        except UserError as error:
            raise RuntimeError("while instantiating") from error

    assert run_guarded(command) == 2
    assert capsys.readouterr().err == "error: epsilon must be positive, got -1\n"


def test_a_refused_write_is_a_mistake_and_an_absent_file_a_bug() -> None:
    assert user_message(PermissionError(errno.EACCES, "Permission denied", "/x")) is not None
    assert user_message(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None


def test_a_bug_keeps_its_traceback() -> None:
    def command() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_guarded(command)


def test_an_interruption_has_the_shell_s_status(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert run_guarded(command) == 130


def test_a_wrapped_ctrl_c_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("problem while importing") from error

    assert run_guarded(command) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_circle_of_errors_ends() -> None:
    first, second = RuntimeError("first"), UserError("second")
    first.__cause__, second.__cause__ = second, first
    assert user_message(first) == "second"
    second.__cause__ = None
    first.__cause__, first.__context__ = None, first
    assert user_message(first) is None


def test_a_reader_that_has_left_is_the_same_for_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)

        def command() -> int:
            Console().print("nobody reads this")
            return 0

        assert run_guarded(command) == 141
        with pytest.raises(SystemExit):
            run_guarded(lambda: sys.exit(3))


def test_a_directory_that_is_gone_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path.cwd()
    assert user_message(caught.value) == "the current directory is gone; change to another one"


def test_a_place_where_no_file_can_be_made_is_a_mistake() -> None:
    with pytest.raises(OSError, match=r"results\.csv") as caught:
        replace_file(Path("/proc/results.csv"), "")
    assert (user_message(caught.value) or "").startswith("/proc/results.csv: ")
