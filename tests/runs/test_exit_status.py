import errno
import os
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import replace_file
from symmetry_robustness.runs.exit_status import run_guarded, user_message
from symmetry_robustness.runs.terminal import printable


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
    with pytest.raises(TypeError):
        run_guarded(lambda: len(printable(None)))  # type: ignore[arg-type]


def forward_of(folder: Path, body: str) -> Callable[..., Any]:
    """A function of a module of the user's."""
    (folder / "own.py").write_text(f"def forward(call):\n    {body}\n")
    function: Callable[..., Any] = runpy.run_path(str(folder / "own.py"))["forward"]
    return function


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("[][3]", "IndexError: list index out of range"),
        ("assert call", "AssertionError"),
        ("import json; json.loads('{')", "JSONDecodeError: Expecting property name"),
        ("open('/proc/nowhere', 'w')", "FileNotFoundError: [Errno 2]"),
        ("raise SystemExit(0)", "ends the program with status 0"),
    ],
)
def test_an_error_in_code_of_the_user_s_is_one_line_that_says_where(
    body: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_guarded(lambda: forward_of(tmp_path, body)(None)) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {tmp_path / 'own.py'}, line 2, in forward: {what}")
    assert line.endswith("; correct it there\n")
    assert line.count("\n") == 1


def test_an_error_of_this_package_is_not_blamed_on_the_code_that_calls_it(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        run_guarded(lambda: forward_of(tmp_path, "return call(None)")(printable))


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
            run_guarded(partial(sys.exit, 3))


def test_a_directory_that_is_gone_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path.cwd()
    assert user_message(caught.value.with_traceback(None)) == "the current directory is gone; change to another one"


def test_a_place_where_no_file_can_be_made_is_a_mistake() -> None:
    with pytest.raises(OSError, match=r"results\.csv") as caught:
        replace_file(Path("/proc/results.csv"), "")
    assert (user_message(caught.value) or "").startswith("/proc/results.csv: ")
