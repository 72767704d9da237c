"""A sweep on a terminal: its progress, the jobs that run, the jobs that did not end well."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from symmetry_robustness.app.progress import duration
from symmetry_robustness.sweeps.eta import seconds_left
from symmetry_robustness.sweeps.status import JobState, State

# In the order in which they are listed.
MARKS: Final[dict[State, tuple[str, str]]] = {
    "running": ("●", "cyan"),
    "failed": ("✖", "red"),
    "lost": ("✖", "magenta"),
    "interrupted": ("■", "yellow"),
    "queued": ("○", "dim"),
    "done": ("✔", "green"),
}
_TROUBLE: Final[tuple[State, ...]] = ("failed", "lost", "interrupted")
_FIXED: Final = 6  # lines above jobs, and between and above tables
_TODAY_S: Final = 20 * 3600.0  # from here on the time alone would not tell the day
_WIDE: Final = 110  # columns from which on there is room for the machine of each job


def console() -> Console:
    """Standard output, 160 columns wide where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 160)


def sweep_view(
    sweep: Path, states: Sequence[JobState], width: int, height: int | None = None, now: float | None = None
) -> RenderableType:
    """A sweep on at most `height` lines of `width` columns; jobs without a line of their own are counted."""
    now = time.time() if now is None else now
    running, trouble = [state for state in states if state.state == "running"], in_trouble(states)
    tables = bool(running) + bool(trouble)
    most = len(states) if height is None else max(1, (height - _FIXED) // max(1, tables))
    head = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(_line(str(sweep), "bold"), forecast(states, now))
    done = sum(state.state == "done" for state in states)
    part = done + sum(state.fraction_done for state in running)
    head.add_row(ProgressBar(len(states), part), Text(f"{done:,} of {len(states):,} done", "bold"))
    counted = counts(states)
    waits = Counter(state.reason for state in states if state.state == "queued" and state.reason not in (None, "None"))
    if waits:
        listed = ", ".join(f"{reason} {number}" for reason, number in waits.most_common(3))
        counted.append(f"  (Slurm: {listed})", "dim")
    parts: list[RenderableType] = [head, counted]
    if running:
        running.sort(key=lambda state: math.inf if state.remaining is None else state.remaining)
        titles = ["job", "epoch", "images/s", "left", "metric", *(["on"] if width >= _WIDE else [])]
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for title in titles:
            right = title in ("epoch", "images/s", "left")
            table.add_column(title, justify="right" if right else "left", no_wrap=right)
        rows = [_running_row(state)[: len(titles)] for state in running]
        parts += ["", *_shortened(table, rows, most, "running")]
    if trouble:
        table = Table.grid("", "", "", padding=(0, 2, 0, 0), pad_edge=False)
        table.columns[1].max_width = max(1, width // 3)
        parts += ["", *_shortened(table, [_trouble_row(state, now) for state in trouble], most, "of these")]
    return Group(*parts)


def in_trouble(states: Sequence[JobState]) -> list[JobState]:
    """Jobs that did not end well, failed ones first."""
    return sorted((s for s in states if s.state in _TROUBLE), key=lambda state: _TROUBLE.index(state.state))


def counts(states: Sequence[JobState]) -> Text:
    """The number of jobs in each state, on one line."""
    count = Counter(state.state for state in states)
    parts = [Text(f"{mark} {count[name]:,} {name}", style) for name, (mark, style) in MARKS.items() if count[name]]
    line = Text("  ").join(parts)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def forecast(states: Sequence[JobState], now: float) -> str:
    """When all will have ended; empty if that is unknown or over."""
    left = seconds_left(states)
    if not left:
        return ""
    clock = time.strftime("%H:%M" if left < _TODAY_S else "%a %d %b %H:%M", time.localtime(now + left))
    return f"{duration(left)} left, ends about {clock}"


def why(state: JobState, now: float) -> str:
    """The reason why a job did not end well, in one line."""
    error = state.error or ""
    if state.state == "lost" and state.updated is not None:
        return f"silent for {duration(now - state.updated)}{error and f'; last line: {error}'}"
    return error or ("saved its state, can be resumed" if state.state == "interrupted" else "left no message")


def _shortened(table: Table, rows: Sequence[Sequence[RenderableType]], most: int, kind: str) -> list[RenderableType]:
    """A table of at most `most` lines, of which the last one counts the rows that are left out."""
    shown = rows if len(rows) <= most else rows[: most - 1]
    for row in shown:
        table.add_row(*row)
    left_out = len(rows) - len(shown)
    return [table, *([Text(f"… and {left_out:,} more {kind}", "dim")] if left_out else [])]


def _running_row(state: JobState) -> list[RenderableType]:
    speed = f"{state.images_per_second:,.0f}" if state.images_per_second else ""
    return [
        Label(state.label),
        "" if state.epoch is None else f"{state.epoch}/{state.max_epochs or '?'}",
        speed if state.phase == "training" else Text(state.phase or "starting", "dim"),
        duration(state.remaining) if state.remaining else "",
        _line("" if state.metric is None else f"{state.metric[1]:.4g} {state.metric[0]}"),
        _line(state.host or "", "dim"),
    ]


def _trouble_row(state: JobState, now: float) -> list[RenderableType]:
    mark, style = MARKS[state.state]
    return [Text(f"{mark} {state.state}", style, no_wrap=True), Label(state.label), _line(why(state, now))]


class Label:
    """A job's overrides on one line, cut in their middle, since their ends tell neighbours apart.

    Args:
        text: of any length.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Both ends of the text, as much as there is room."""
        room, text = max(1, options.max_width), self._text
        if cell_len(text) > room:
            first, last = chop_cells(text, max(1, room // 2))[0], chop_cells(text[::-1], max(1, (room - 1) // 2))[0]
            text = f"{first}…{last[::-1]}" if room > 2 else "…"
        yield Text(text, no_wrap=True, overflow="crop")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From a few columns to all of the text."""
        width = max(1, cell_len(self._text))
        return Measurement(min(width, 8), min(width, max(1, options.max_width)))


def _line(text: str, style: str = "") -> Text:
    """Text that is cut at its end where its column is too narrow."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")
