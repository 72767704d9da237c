"""`symrob status SWEEP…`: the progress of sweeps, from their files alone."""

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from symmetry_robustness.app.arguments import Parser, path
from symmetry_robustness.app.status_view import console, sweep_view
from symmetry_robustness.runs.exit_status import run_guarded
from symmetry_robustness.sweeps.eta import seconds_left
from symmetry_robustness.sweeps.slurm_queue import SlurmJob, ask_squeue
from symmetry_robustness.sweeps.status import JobState, sweep_states

States = dict[Path, list[JobState]]
_PAUSE_S: Final = 1.0  # between two readings of the files
_READING: Final = 0.1  # the largest part of the time that is spent on reading, however slow the file system is
_SLURM_PAUSE_S: Final = 30.0  # between two calls of squeue


def main(argv: Sequence[str] | None = None) -> int:
    """Show sweeps live on a terminal, until Ctrl-C or their end; once elsewhere.

    Returns:
        0, whatever became of the jobs.
    """
    parser = Parser(prog="symrob status", description="progress of sweeps, until they end or Ctrl-C")
    parser.add_argument("sweeps", nargs="+", type=path, metavar="SWEEP", help="directory of a sweep, or of a run")
    parser.add_argument("--json", action="store_true", help="print all that is known, once, an object per sweep")
    parser.add_argument("--no-watch", action="store_true", help="print the progress once, as without a terminal")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    reader, output = _Reader(arguments.sweeps), console()
    if arguments.json:
        print(json.dumps([_as_json(sweep, states) for sweep, states in reader().items()]))
    elif arguments.no_watch or not output.is_terminal or output.is_dumb_terminal:
        for sweep, states in reader().items():
            output.print(sweep_view(sweep, states, output.width), soft_wrap=True)
    else:
        _watch(output, reader)
    return 0


class _Reader:
    """Reads the states of sweeps, and calls squeue now and then only."""

    def __init__(self, sweeps: Sequence[Path]) -> None:
        self.sweeps = list(dict.fromkeys(sweeps))
        self.pause = _PAUSE_S
        self._queue: Mapping[str, SlurmJob] | None = None
        self._about: set[str] = set()
        self._asked = -_SLURM_PAUSE_S

    def __call__(self) -> States:
        start = time.monotonic()
        states = {sweep: sweep_states(sweep, self._ask) for sweep in self.sweeps}
        self.pause = max(_PAUSE_S, (time.monotonic() - start) / _READING)
        return states

    def _ask(self, identifiers: Collection[str]) -> Mapping[str, SlurmJob] | None:
        if time.monotonic() - self._asked >= _SLURM_PAUSE_S or not self._about.issuperset(identifiers):
            self._about |= set(identifiers)
            self._queue, self._asked = ask_squeue(self._about), time.monotonic()
        return self._queue


def _watch(output: Console, reader: _Reader) -> None:
    """Update a screen until Ctrl-C or the end, and leave its last content on the terminal."""

    def view() -> Group:
        height = output.height // len(states) - 1
        return Group(*(sweep_view(sweep, jobs, output.width, height) for sweep, jobs in states.items()))

    states = reader()
    with contextlib.suppress(KeyboardInterrupt), Live(console=output, screen=True, auto_refresh=False) as live:
        while any(state.state in ("running", "queued") for jobs in states.values() for state in jobs):
            live.update(Group(view(), Text("Ctrl-C ends the watching, no job", "dim")), refresh=True)
            time.sleep(reader.pause)
            states = reader()
    output.print(view())


def _as_json(sweep: Path, states: Sequence[JobState]) -> dict[str, Any]:
    return {
        "sweep": str(sweep),
        "counts": Counter(state.state for state in states),
        "seconds_left": seconds_left(states),
        "jobs": [state.as_json() for state in states],
    }


if __name__ == "__main__":
    sys.exit(run_guarded(main))
