"""How far an evaluation has come: bars in a terminal, a line now and then otherwise, with speed and time left."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from symmetry_robustness.app.durations import duration
from symmetry_robustness.robustness import Progress

# Seconds between two lines where nobody looks at a terminal.
_INTERVAL: Final = 30.0
_TITLES: Final = {"attacks": "attacks", "measures.clever": "CLEVER", "checks": "checks"}


class Speed:
    """Images per second since the first report, so that what an earlier process did does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def describe(self, done: float, total: int) -> str:
        """Speed and time left in words; empty as long as they are unknown."""
        now = self._clock()
        if self._first is None:
            self._first = done, now
        images, seconds = done - self._first[0], now - self._first[1]
        if images <= 0 or seconds <= 0:
            return ""
        return f"{images / seconds:.3g} images/s, {duration((total - done) * seconds / images)} left"


@contextlib.contextmanager
def shown_progress(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """What takes the reports of an evaluation and shows them on standard error.

    Args:
        console: where to show; standard error by default.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        with Bars(*columns, console=console) as bars:
            yield _bar_reporter(bars)
    else:
        yield line_reporter()


def _title(stage: str) -> str:
    return _TITLES.get(stage, stage.removeprefix("measures."))


def _bar_reporter(bars: Bars) -> Callable[[Progress], None]:
    tasks: dict[str, tuple[TaskID, Speed]] = {}

    def report(state: Progress) -> None:
        if state.stage not in tasks:
            task = bars.add_task(_title(state.stage), total=state.total, speed="")
            tasks[state.stage] = task, Speed()
        task, speed = tasks[state.stage]
        bars.update(task, completed=state.done, speed=speed.describe(state.done, state.total))

    return report


def line_reporter(
    write: Callable[[str], object] | None = None, clock: Callable[[], float] = time.monotonic
) -> Callable[[Progress], None]:
    """Report at the beginning and at the end of each stage, and every half minute.

    Args:
        write: takes a line; prints it on standard error by default.
        clock: seconds.
    """
    speeds: dict[str, Speed] = {}
    ended: set[str] = set()
    last = -_INTERVAL

    def report(state: Progress) -> None:
        nonlocal last
        turning = state.stage not in speeds or (state.done == state.total and state.stage not in ended)
        words = speeds.setdefault(state.stage, Speed(clock)).describe(state.done, state.total)
        if turning or clock() - last >= _INTERVAL:
            last = clock()
            ended.update({state.stage} if state.done == state.total else ())
            done = f"{round(state.done, 1):.10g}"
            line = f"{_title(state.stage)}: {done} of {state.total} images{words and ', '}{words}"
            if write is None:
                print(line, file=sys.stderr, flush=True)
            else:
                write(line)

    return report
