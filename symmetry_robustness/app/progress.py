"""Progress of an evaluation: bars on a terminal, a line now and then elsewhere, with speed and time left."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from symmetry_robustness.robustness import Progress

_INTERVAL_S: Final = 30.0  # between two lines where there is no terminal


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour.

    Examples:
        >>> duration(3661), duration(59.6)
        ('1:01:01', '1:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Speed:
    """Images per second since the first report, so that the work of an earlier process does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def describe(self, done: float, total: int) -> str:
        """Speed and time left; empty until they are known."""
        now = self._clock()
        self._first = self._first or (done, now)
        images, seconds = done - self._first[0], now - self._first[1]
        if images <= 0 or seconds <= 0:
            return ""
        return f"{images / seconds:.3g} images/s, {duration((total - done) * seconds / images)} left"


@contextlib.contextmanager
def shown_progress(console: Console | None = None) -> "Iterator[Callable[[Progress], None]]":
    """A callback that shows the progress of an evaluation on a console, standard error by default."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield line_reporter()
        return
    text = TextColumn("{task.description}"), TextColumn("{task.fields[speed]}")
    with Bars(text[0], BarColumn(), MofNCompleteColumn(), text[1], console=console) as bars:
        stages = {}

        def report(state: "Progress") -> None:
            if state.stage not in stages:
                stages[state.stage] = bars.add_task(_title(state.stage), total=state.total, speed=""), Speed()
            task, speed = stages[state.stage]
            bars.update(task, completed=state.done, speed=speed.describe(state.done, state.total))

        yield report


def line_reporter(
    write: Callable[[str], object] | None = None, clock: Callable[[], float] = time.monotonic
) -> "Callable[[Progress], None]":
    """A callback that writes a line at the start and the end of each stage, and every half minute.

    Args:
        write: receives a line; prints it on standard error by default.
        clock: seconds.
    """
    write = write or (lambda line: print(line, file=sys.stderr, flush=True))
    speeds, ended, last = dict[str, Speed](), set[str](), -_INTERVAL_S

    def report(state: "Progress") -> None:
        nonlocal last
        starts_or_ends = state.stage not in speeds or (state.done == state.total and state.stage not in ended)
        speed = speeds.setdefault(state.stage, Speed(clock)).describe(state.done, state.total)
        if starts_or_ends or clock() - last >= _INTERVAL_S:
            last = clock()
            ended.update({state.stage} if state.done == state.total else ())
            done = f"{round(state.done, 1):.10g}"
            write(f"{_title(state.stage)}: {done} of {state.total} images{speed and ', '}{speed}")

    return report


def _title(stage: str) -> str:
    return stage.removeprefix("measures.").replace("_", " ")
