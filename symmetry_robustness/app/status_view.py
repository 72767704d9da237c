"""A sweep on a terminal: its progress, the jobs that run, the jobs that did not end well."""

import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
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
_HEAD: Final = 3  # lines above the jobs
_TODAY_S: Final = 20 * 3600.0  # from here on the time alone would not tell the day
_WIDE: Final = 110  # columns from which on there is room for a bar and the machine of each job


def console() -> Console:
    """Standard output, 160 columns wide where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 160)


def sweep_view(
    sweep: Path, states: Sequence[JobState], width: int, height: int | None = None, now: float | None = None
) -> RenderableType:
    """A sweep on at most `height` lines; jobs without a line of their own are counted.

    Args:
        sweep: its directory as the user typed it.
        states: of its jobs.
        width: columns.
        height: lines; None for as many as it takes.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    running, trouble = [state for state in states if state.state == "running"], in_trouble(states)
    # An empty line above each of the two tables, and the titles of columns.
    rows = len(states) + 1 if height is None else max(2, height - _HEAD - 2 * bool(running) - bool(trouble))
    for_trouble = min(len(trouble), max(rows - len(running), rows // 3, 1))
    head = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(_line(str(sweep), "bold"), forecast(states, now))
    reasons = Counter(
        state.reason for state in states if state.state == "queued" and state.reason not in (None, "None")
    )
    counted = counts(states)
    if reasons:
        listed = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common(3))
        counted.append(f"  (Slurm: {listed})", "dim")
    parts: list[RenderableType] = [head, _bar(states, width), counted]
    if running:
        running.sort(key=lambda state: math.inf if state.remaining is None else state.remaining)
        cells = [_running_row(state, width >= _WIDE) for state in running]
        parts += ["", *_shortened(_running(width >= _WIDE), cells, rows - for_trouble, "running")]
    if trouble:
        table = Table.grid("", "", "", padding=(0, 2, 0, 0), pad_edge=False)
        table.columns[1].max_width = max(1, width // 3)
        parts += ["", *_shortened(table, [_trouble_row(state, now) for state in trouble], for_trouble, "of these")]
    return Group(*parts)


def in_trouble(states: Sequence[JobState]) -> list[JobState]:
    """Jobs that did not end well, failed ones first."""
    return sorted((s for s in states if s.state in _TROUBLE), key=lambda state: _TROUBLE.index(state.state))


def counts(states: Sequence[JobState]) -> Text:
    """The number of jobs in each state, on one line."""
    count = Counter(state.state for state in states)
    parts = [Text(f"{mark} {count[name]:,} {name}", style) for name, (mark, style) in MARKS.items() if count[name]]
    line = Text("  ", no_wrap=True, overflow="ellipsis").join(parts)
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


def _bar(states: Sequence[JobState], width: int) -> Text:
    """Done jobs, the done part of running ones, jobs in trouble and the rest, as parts of one bar."""
    count = Counter(state.state for state in states)
    begun = sum(state.fraction_done for state in states if state.state == "running")
    tail = f"  {count['done']:,} of {len(states):,} done"
    room = max(10, width - len(tail))
    bar, total, drawn = Text(), 0.0, 0
    for size, style in ((count["done"], "green"), (begun, "cyan"), (len(in_trouble(states)), "red")):
        total += size
        end = min(room, max(round(room * total / len(states)), drawn + bool(size)))  # the least part shows
        bar.append("━" * (end - drawn), style)
        drawn = max(drawn, end)
    return bar.append("━" * (room - drawn), "grey30").append(tail, "bold")


def _running(wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("job")
    if wide:
        table.add_column("", width=12)
    for title in ("epoch", "images/s", "left"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("metric")
    if wide:
        table.add_column("on", style="dim", no_wrap=True)
    return table


def _shortened(table: Table, rows: Sequence[Sequence[RenderableType]], most: int, kind: str) -> list[RenderableType]:
    """A table of at most `most` lines, of which the last one counts the rows that are left out."""
    shown = rows if len(rows) <= most else rows[: most - 1]
    for row in shown:
        table.add_row(*row)
    left_out = len(rows) - len(shown)
    return [table, *([Text(f"… and {left_out:,} more {kind}", "dim")] if left_out else [])]


def _running_row(state: JobState, wide: bool) -> list[RenderableType]:
    speed = f"{state.images_per_second:,.0f}" if state.images_per_second else ""
    return [
        _line(state.label),
        *([ProgressBar(total=1.0, completed=state.fraction_done, width=12)] if wide else []),
        "" if state.epoch is None else f"{state.epoch}/{state.max_epochs or '?'}",
        speed if state.phase == "training" else Text(state.phase or "starting", "dim"),
        duration(state.remaining) if state.remaining else "",
        _line("" if state.metric is None else f"{state.metric[1]:.4g} {state.metric[0]}"),
        *([Text(state.host or "")] if wide else []),
    ]


def _trouble_row(state: JobState, now: float) -> list[RenderableType]:
    mark, style = MARKS[state.state]
    return [Text(f"{mark} {state.state}", style, no_wrap=True), _line(state.label), _line(why(state, now))]


def _line(text: str, style: str = "") -> Text:
    """Text that is cut at its end where its column is too narrow."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")
