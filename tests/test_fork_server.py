"""A forked process is, to the one that starts it, a new interpreter."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server import Popen, run, running


@pytest.mark.parametrize(
    "code", ["pass", "import sys; sys.exit(3)", "import sys; sys.exit('no')", "raise ValueError", "1 / 0"]
)
def test_exit_status_and_output_are_those_of_a_new_interpreter(code: str) -> None:
    code = f"import os, sys; print(sys.argv, os.getcwd(), os.environ['WORD'], input())\n{code}"
    settings = {"input": "typed\n", "capture_output": True, "text": True, "cwd": "/", "env": os.environ | {"WORD": "x"}}
    command = [sys.executable, "-c", code, "a b"]
    new, forked = subprocess.run(command, **settings), run(command, **settings)
    assert (forked.returncode, forked.stdout) == (new.returncode, new.stdout)
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    code = "import time; print(flush=True); time.sleep(60)"
    with Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert running(code) == [process.pid]
        process.send_signal(number)
        assert process.wait(60) == -number
    assert running(code) == []


def test_further_modules_files_and_masked_signals_reach_it(tmp_path: Path) -> None:
    (tmp_path / "further.py").write_text("import os, signal, sys; os.write(int(sys.argv[1]), b'it is here')\n")
    reader, writer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        code = "import signal, further; print([*signal.pthread_sigmask(signal.SIG_BLOCK, ())] == [signal.SIGUSR2])"
        done = run(
            [sys.executable, "-c", code, str(writer)],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            pass_fds=(writer,),
            capture_output=True,
            text=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert done.stdout == "True\n", done.stderr
    assert os.read(reader, 100) == b"it is here"
    os.close(reader)
    os.close(writer)


def test_it_has_the_rank_of_its_environment() -> None:
    code = "from pytorch_lightning.utilities import rank_zero_only; print(rank_zero_only.rank)"
    done = run([sys.executable, "-c", code], env=os.environ | {"LOCAL_RANK": "1"}, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def test_other_commands_are_started_as_usual() -> None:
    assert run(["sh", "-c", "exit 4"]).returncode == 4
    assert run("exit 5", shell=True).returncode == 5
