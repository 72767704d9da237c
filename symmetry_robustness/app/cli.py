"""`symrob COMMAND …`: finds the command and runs it."""

import importlib
import sys
from collections.abc import Sequence

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.exit_status import MISTAKE, run_guarded
from symmetry_robustness.runs.signals import interrupt_ends_process

_COMMANDS = {
    "train": "train a network, evaluate its robustness after each epoch (Hydra; -m for sweeps)",
    "evaluate": "evaluate the robustness of a checkpoint, or of a network trained elsewhere (Hydra)",
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

    Returns:
        The exit status: 0, 2 for a user's mistake, else the command's own.
    """
    return run_guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else MISTAKE
    if argv[0] not in _COMMANDS:
        raise UserError(f"unknown command {argv[0]!r}; choose from {', '.join(_COMMANDS)}")
    with interrupt_ends_process():
        command = importlib.import_module(f"symmetry_robustness.app.{argv[0]}")
    status: int = command.main(argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
