"""A sweep on a terminal: how far it is, what runs, what went wrong."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from symmetry_robustness.app.durations import duration
from symmetry_robustness.sweeps.eta import seconds_left
from symmetry_robustness.sweeps.status import JobState, State

# In the order in which they are told.
MARKS: Final[dict[State, tuple[str, str]]] = {
    "running": ("●", "cyan"),
    "failed": ("✖", "red"),
    "lost": ("✖", "magenta"),
    "interrupted": ("■", "yellow"),
    "queued": ("○", "dim"),
    "done": ("✔", "green"),
}
TROUBLE: Final[tuple[State, ...]] = ("failed", "lost", "interrupted")
_HEAD: Final = 3  # lines above the jobs
_TODAY: Final = 20 * 3600.0  # seconds, from which on the time alone would not tell the day
_WIDE: Final = 110  # columns, from which on there is room for a bar and the machine of each job


def sweep_view(
    sweep: Path, states: Sequence[JobState], width: int, height: int | None = None, now: float | None = None
) -> RenderableType:
    """A sweep on at most `height` lines: its progress, jobs that run, jobs that did not end well; the rest is counted.

    Args:
        sweep: as the user calls it.
        states: of its jobs.
        width: columns.
        height: lines; None for as many as it takes.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    running = [state for state in states if state.state == "running"]
    trouble = sorted((s for s in states if s.state in TROUBLE), key=lambda state: TROUBLE.index(state.state))
    # An empty line above each of the two blocks, and titles of columns.
    rows = len(states) + 1 if height is None else max(2, height - _HEAD - 2 * bool(running) - bool(trouble))
    for_trouble = min(len(trouble), max(rows - len(running), rows // 3, 1))
    lines = [_title(sweep, states, width, now), _bar(states, width), _counts_and_reasons(states)]
    if running:
        lines += [Text(""), *_running(running, rows - for_trouble, width)]
    if trouble:
        lines += [Text(""), *_trouble(trouble, for_trouble, width, now)]
    return Group(*lines)


def _title(sweep: Path, states: Sequence[JobState], width: int, now: float) -> Text:
    """Which sweep it is, and when it will have ended."""
    end = Text(forecast(states, now))
    return _row(
        [(Text(_cut(str(sweep), width - len(end) - 2, head=0), "bold"), width - len(end) - 2), (end, len(end) or 1)]
    )


def _bar(states: Sequence[JobState], width: int) -> Text:
    """What is done, what has been done of jobs that run, what went wrong, what is left."""
    count = Counter(state.state for state in states)
    begun = sum(state.fraction_done for state in states if state.state == "running")
    tail = f"  {count['done']:,} of {len(states):,} done"
    room = max(10, width - len(tail))
    parts = ((count["done"], "green"), (begun, "cyan"), (sum(count[name] for name in TROUBLE), "red"))
    bar, total, drawn = Text(), 0.0, 0
    for size, style in parts:
        total += size
        end = min(room, round(room * total / len(states)))
        end = min(room, max(end, drawn + 1)) if size else end  # what there is shows, however little it is
        bar.append("━" * (end - drawn), style)
        drawn = max(drawn, end)
    bar.append("━" * (room - drawn), "grey30")
    return bar.append(tail, "bold")


def counts(states: Sequence[JobState]) -> Text:
    """How many jobs are in each state."""
    count = Counter(state.state for state in states)
    words = [Text(f"{mark} {count[name]:,} {name}", style) for name, (mark, style) in MARKS.items() if count[name]]
    return Text("  ").join(words)


def forecast(states: Sequence[JobState], now: float) -> str:
    """When all will have ended, empty where that is not known or over."""
    left = seconds_left(states)
    if not left:
        return ""
    clock = time.strftime("%H:%M" if left < _TODAY else "%a %d %b %H:%M", time.localtime(now + left))
    return f"{duration(left)} left, ends about {clock}"


def _counts_and_reasons(states: Sequence[JobState]) -> Text:
    line = counts(states)
    reasons = Counter(
        state.reason for state in states if state.state == "queued" and state.reason not in (None, "None")
    )
    if reasons:
        line.append(f"  (Slurm: {', '.join(f'{reason} {number}' for reason, number in reasons.most_common(3))})", "dim")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _cut(words: str, width: int, head: int | None = None) -> str:
    """Words without their middle where they are too long, for names differ at their end."""
    head = width // 3 if head is None else head
    return words if cell_len(words) <= width else f"{words[:head]}…{words[head + 1 - width :]}"


def _row(cells: Sequence[tuple[str | Text, int]]) -> Text:
    """Texts in columns of given widths, negative to align them right; what is too long is cut."""
    row = Text(no_wrap=True, overflow="ellipsis")
    for content, width in cells:
        cell = Text(content) if isinstance(content, str) else content
        cell.overflow = "ellipsis"
        cell.align("left" if width > 0 else "right", abs(width))
        row.append_text(cell).append("  ")
    row.rstrip()
    return row


def _shortened(rows: list[Text], shown: int, what: str) -> list[Text]:
    """At most `shown` rows, the last of which counts those that are left out."""
    if len(rows) <= shown:
        return rows
    return [*rows[: shown - 1], Text(f"… and {len(rows) - shown + 1:,} more {what}", "dim")]


def _running(states: Sequence[JobState], shown: int, width: int) -> list[Text]:
    """Jobs that run, first those that end first, under titles."""
    wide = width >= _WIDE
    room = width - 33 - (28 if wide else 0)  # for job and metric, beside all other columns
    job = min(max(3, *(cell_len(state.label) for state in states)), max(room - 20, room // 2))
    widths = (job, *((12,) if wide else ()), -7, -10, -8, room - job, *((12,) if wide else ()))
    titles = ("job", *(("",) if wide else ()), "epoch", "images/s", "left", "metric", *(("on",) if wide else ()))
    ordered = sorted(states, key=lambda state: math.inf if state.remaining is None else state.remaining)
    rows = [_row([*zip(_running_cells(state, job, wide), widths, strict=True)]) for state in ordered]
    title = _row([(Text(word, "dim"), width) for word, width in zip(titles, widths, strict=True)])
    return [title, *_shortened(rows, shown, "running")]


def _running_cells(state: JobState, job: int, wide: bool) -> list[str | Text]:
    full = round(12 * state.fraction_done)
    speed = f"{state.images_per_second:,.0f}" if state.images_per_second else ""
    return [
        _cut(state.label, job),
        *([Text("━" * full, "cyan").append("━" * (12 - full), "grey30")] if wide else []),
        "" if state.epoch is None else f"{state.epoch}/{state.max_epochs or '?'}",
        speed if state.phase == "training" else Text(state.phase or "starting", "dim"),
        duration(state.remaining) if state.remaining else "",
        "" if state.metric is None else f"{state.metric[1]:.4g} {state.metric[0]}",
        *([Text(state.host or "", "dim")] if wide else []),
    ]


def _trouble(states: Sequence[JobState], shown: int, width: int, now: float) -> list[Text]:
    """Jobs that did not end well, with the line that says why."""
    job = min(max(cell_len(state.label) for state in states), width // 3)
    rows = []
    for state in states:
        mark, style = MARKS[state.state]
        rows.append(
            _row(
                [
                    (Text(f"{mark} {state.state}", style), 13),
                    (_cut(state.label, job), job),
                    (why(state, now), width - job - 17),
                ]
            )
        )
    return _shortened(rows, shown, "of these")


def why(state: JobState, now: float) -> str:
    """What is known of a job that did not end well, in one line."""
    words = state.error or ""
    if state.state == "lost" and state.updated is not None:
        return f"silent for {duration(now - state.updated)}{words and f'; last words: {words}'}"
    return words or ("saved itself, can go on" if state.state == "interrupted" else "left no message")
