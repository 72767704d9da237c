"""Commands end well whatever their standard streams are."""

import subprocess
import sys
from pathlib import Path

import pytest

from symmetry_robustness.runs.terminal import last_line, printable

SYMROB = f"{sys.executable} -m symmetry_robustness.app.cli"


def shell(command: str, directory: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        check=False,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "HOME": str(directory), **environment},
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_a_terminal_lacks_are_replaced(encoding: str, tmp_path: Path) -> None:
    done = shell(f"{SYMROB} --help; {SYMROB} status ∅", tmp_path, LC_ALL="C", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"symrob COMMAND ..." in done.stdout
    assert b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"error: ")


@pytest.mark.parametrize(("characters", "status"), [(10, 0), (10**6, 141)])
def test_a_reader_that_leaves_ends_the_command_without_a_traceback(
    characters: int, status: int, tmp_path: Path
) -> None:
    code = "import sys, time; from symmetry_robustness.runs.exit_status import run_guarded as run;"
    code += f"time.sleep(0.5); sys.exit(run(lambda: print('x' * {characters}) or 0))"
    done = shell(f'{sys.executable} -c "{code}" | true', tmp_path)
    assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_streams_are_none_of_a_command_s_business(closed: str, tmp_path: Path) -> None:
    code = "import os; from symmetry_robustness.runs.exit_status import run_guarded as run;"
    code += "run(lambda: print('shown') or open('found', 'w').write(str(os.pipe()[0])))"
    done = shell(f'{sys.executable} -c "{code}" {closed}', tmp_path)
    assert done.returncode == 0
    assert int((tmp_path / "found").read_text()) > 2  # nothing else has the number of a standard stream
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("also", ["", "<&-"])
def test_a_closed_standard_output_is_an_error_of_the_caller(also: str, tmp_path: Path) -> None:
    done = shell(f"{SYMROB} --help >&- {also}", tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"error: standard output is closed")


def test_text_is_made_printable() -> None:
    assert printable("a\x1b[31m b\n\x07c") == "a b c"


def test_the_last_line_is_found_in_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"first\n\xff last\n\n")
    assert last_line(tmp_path / "log") == "\ufffd last"
    assert last_line(tmp_path / "none") is None
