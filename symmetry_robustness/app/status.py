"""`symrob status SWEEP…`: how far sweeps are, from their files alone."""

import argparse
import contextlib
import json
import os
import select
import sys
import termios
import time
import tty
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from symmetry_robustness.app.status_view import counts, forecast, sweep_view
from symmetry_robustness.runs.exit_status import run_guarded
from symmetry_robustness.runs.squeue import SlurmJob, ask_squeue
from symmetry_robustness.sweeps.eta import seconds_left
from symmetry_robustness.sweeps.status import JobState, sweep_states

States = dict[Path, list[JobState]]
_PAUSE: Final = 1.0  # seconds between two looks at the files
_SHARE: Final = 0.1  # of the time at most is spent on reading them, however slow their file system is
_SLURM_PAUSE: Final = 30.0  # seconds between two questions to Slurm


def main(argv: Sequence[str] | None = None) -> int:
    """Show sweeps live on a terminal, until q, Ctrl-C or their end; once otherwise.

    Returns:
        0, whatever became of the jobs; 2 is the wrapper's for a user's mistake.
    """
    parser = argparse.ArgumentParser(prog="symrob status", description="how far sweeps are")
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="SWEEP", help="directory of a sweep, or of a run")
    parser.add_argument(
        "--json", action="store_true", help="print all that is known, once, a list with an object per sweep"
    )
    parser.add_argument(
        "--watch",
        action=argparse.BooleanOptionalAction,
        help="go on looking until all has ended; default on a terminal",
    )
    arguments = parser.parse_args(argv)
    look = _Look(arguments.sweeps)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.json:
        print(json.dumps([_as_json(sweep, states) for sweep, states in look().items()]))
    elif arguments.watch is False or (arguments.watch is None and not _is_live(console)):
        _print(console, look())
    elif _is_live(console):
        _show(console, look)
    else:
        _follow(look)
    return 0


class _Look:
    """Looks at the files of sweeps; asks Slurm now and then only."""

    def __init__(self, sweeps: Sequence[Path]) -> None:
        self.sweeps = list(dict.fromkeys(sweeps))
        self.pause = _PAUSE
        self._known: Mapping[str, SlurmJob] | None = None
        self._about: set[str] = set()
        self._asked = -_SLURM_PAUSE

    def __call__(self) -> States:
        start = time.monotonic()
        states = {sweep: sweep_states(sweep, self._ask) for sweep in self.sweeps}
        self.pause = max(_PAUSE, (time.monotonic() - start) / _SHARE)
        return states

    def _ask(self, identifiers: Collection[str]) -> Mapping[str, SlurmJob] | None:
        if time.monotonic() - self._asked >= _SLURM_PAUSE or not self._about.issuperset(identifiers):
            self._about |= set(identifiers)
            self._known, self._asked = ask_squeue(self._about), time.monotonic()
        return self._known


def _is_live(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _has_ended(states: States) -> bool:
    return not any(state.state in ("running", "queued") for jobs in states.values() for state in jobs)


def _print(console: Console, states: States) -> None:
    for sweep, jobs in states.items():
        console.print(sweep_view(sweep, jobs, console.width), soft_wrap=True)


def _show(console: Console, look: _Look) -> None:
    """Keep a screen up to date until q, Ctrl-C or the end, and leave the last look on the terminal."""

    def view() -> Group:
        height = console.height // len(states) - 1
        return Group(*(sweep_view(sweep, jobs, console.width, height) for sweep, jobs in states.items()))

    states = look()
    with contextlib.suppress(KeyboardInterrupt):
        if not _has_ended(states):
            with _keyboard() as quits, Live(console=console, screen=True, auto_refresh=False) as live:
                live.update(Group(view(), Text("q quits", "dim")), refresh=True)
                while not (quits(look.pause) or _has_ended(states)):
                    states = look()
                    live.update(Group(view(), Text("q quits", "dim")), refresh=True)
    console.print(view())


def _follow(look: _Look) -> None:
    """Where nobody sees a screen: a line whenever a job has changed its state, until all have ended."""
    before: list[str] = []
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            states, now = look(), time.time()
            lines = [f"{sweep}: {counts(jobs).plain}" for sweep, jobs in states.items()]
            if lines != before:
                for line, jobs in zip(lines, states.values(), strict=True):
                    print(time.strftime("%H:%M:%S", time.localtime(now)), line, forecast(jobs, now), flush=True)
            before = lines
            if _has_ended(states):
                return
            time.sleep(look.pause)


@contextlib.contextmanager
def _keyboard() -> Iterator[Callable[[float], bool]]:
    """What waits for some seconds and tells whether q was pressed meanwhile."""
    keys = sys.stdin.fileno()
    if not sys.stdin.isatty():
        yield lambda seconds: bool(select.select([], [], [], seconds)[0])
        return
    before = termios.tcgetattr(keys)
    tty.setcbreak(keys)

    def quits(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while select.select([keys], [], [], max(0.0, end - time.monotonic()))[0]:
            if os.read(keys, 1) in (b"q", b"Q", b""):
                return True
        return False

    try:
        yield quits
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _as_json(sweep: Path, states: Sequence[JobState]) -> dict[str, Any]:
    return {
        "sweep": str(sweep),
        "counts": Counter(state.state for state in states),
        "seconds_left": seconds_left(states),
        "jobs": [state.as_json() for state in states],
    }


if __name__ == "__main__":
    sys.exit(run_guarded(main))
