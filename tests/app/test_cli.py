import argparse
import signal
import subprocess
import sys

import pytest

from symmetry_robustness.app import cli


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("train", "evaluate", "report", "data"))


def test_no_command_and_an_unknown_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("status", "SWEEP"),
        ("status --jsn x", "unknown option --jsn, did you mean --json?"),
        ("report x --ouput=y", "unknown option --ouput, did you mean --output?"),
        ("data cifar11", "'cifar10'"),
        ("train --detahc", "unknown option --detahc, did you mean --detach?"),
        ("evaluate --cfg nope", "'nope'"),
    ],
)
def test_wrong_arguments_are_one_line(words: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line
    assert f"`symrob {words.split()[0]} --help`" in line


def test_commands_start_where_argparse_reads_every_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that of Python 3.14 does when an option is added."""
    container, add = argparse._ActionsContainer, argparse._ActionsContainer.add_argument

    def check(self: argparse.ArgumentParser, action: argparse.Action) -> None:
        if action.help:
            argparse.HelpFormatter("symrob")._expand_help(action)

    def add_checked(self: argparse.ArgumentParser, *words: str, **settings: object) -> argparse.Action:
        action = add(self, *words, **settings)
        self._check_help(action)
        return action

    monkeypatch.setattr(container, "_check_help", check, raising=False)
    monkeypatch.setattr(container, "add_argument", add_checked)
    assert cli.main(["train", "--cfg", "job"]) == 0
    assert "optimizer:" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):  # Hydra's way to end
        cli.main(["train", "--hydra-help"])
    assert "Install or uninstall" in capsys.readouterr().out
    assert "_check_help" not in vars(argparse.ArgumentParser)


REFUSED = [
    "seed=-1",
    "trainer.max_epochs=0",
    "+trainer.fast_dev_run=true",
    "resume=maybe",
    "--detahc",
    "hydra.run.dir=.",
]


@pytest.mark.parametrize("word", REFUSED)
def test_a_refusal_that_needs_no_torch_does_not_import_it(word: str) -> None:
    code = "import sys; from symmetry_robustness.app.cli import main; s = main(['train', *sys.argv[1:]]);"
    code += "print(s, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n", done.stderr


# Python drops what is raised in a callback of its import locks; so does this finder, while the command is imported.
SWALLOWING = """
import signal, sys
from symmetry_robustness.app import cli

class Swallowing:
    def find_spec(self, name, path=None, target=None):
        if name == "symmetry_robustness.app.status":
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Swallowing())
sys.exit(cli.main(["status", "--help"]))
"""


def test_an_interruption_is_not_lost_while_a_command_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWING], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_importing_a_command_leaves_the_handling_of_ctrl_c_as_it_was(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(SystemExit):
            cli.main(["status", "--help"])
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
