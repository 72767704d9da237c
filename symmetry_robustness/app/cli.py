"""`symrob COMMAND …`: finds the command and runs it."""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from symmetry_robustness.runs.exit_status import MISTAKE, run_guarded

_COMMANDS = {
    "train": "train a network, evaluate its robustness after each epoch (Hydra; -m for sweeps)",
    "evaluate": "evaluate the robustness of one checkpoint (Hydra)",
    "status": "progress of a sweep, live",
    "collect": "results of a sweep in one table; failed jobs and how to resume them",
    "report": "tables and figures from run directories",
    "data": "download, check and unpack a data set",
    "doctor": "check versions, devices, cluster, tracker, data and disks, with remedies",
}


def usage() -> str:
    """The text of `symrob --help`."""
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in _COMMANDS.items()]
    return "\n".join(["usage: symrob COMMAND …", "", *lines, "", "`symrob COMMAND --help` has more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after `symrob`; the process's own by default.

    Returns:
        The exit status: 0, 2 for a user's mistake, else the command's own.
    """
    return run_guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else MISTAKE
    if argv[0] not in _COMMANDS:
        print(f"symrob: unknown command {argv[0]!r}; choose from {', '.join(_COMMANDS)}", file=sys.stderr)
        return MISTAKE
    return _command(argv[0])(argv[1:])


def _command(name: str) -> Callable[[list[str]], int]:
    """Import a command, for seconds in which Ctrl-C ends the process at once.

    As an exception it would be lost if it reached Python within a lock of its imports; nothing is written yet.
    """
    handled = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    try:
        if handled:
            signal.signal(signal.SIGINT, _end)
        command: Callable[[list[str]], int] = importlib.import_module(f"symmetry_robustness.app.{name}").main
        return command
    finally:
        if handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")  # Python's buffers may be in the middle of a line
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
