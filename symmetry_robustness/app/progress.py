"""Progress of an evaluation: bars on a terminal, a line now and then elsewhere, with speed and time left."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
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


@contextlib.contextmanager
def shown_progress(
    console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> "Iterator[Callable[[Progress], None]]":
    """A callback that shows the progress of an evaluation on a console, standard error by default.

    A terminal has bars; elsewhere there is a line at the start and the end of each stage, and every half minute. The
    speed counts from the first report, so that the work of an earlier process does not count.
    """
    console = console or Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}")
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        stages: dict[str, tuple[TaskID, float, float]] = {}  # and what the first report said, and when
        printed = -_INTERVAL_S

        def report(state: "Progress") -> None:
            nonlocal printed
            now, name = clock(), state.stage.removeprefix("measures.").replace("_", " ")
            starts = state.stage not in stages
            if starts:
                stages[state.stage] = bars.add_task(name, total=state.total, pace=""), state.done, now
            task, first, start = stages[state.stage]
            images, seconds, pace = state.done - first, now - start, ""
            if images > 0 and seconds > 0:
                pace = (
                    f"{images / seconds:.3g} images/s, {duration((state.total - state.done) * seconds / images)} left"
                )
            ends = state.done == state.total and not bars.tasks[task].finished
            bars.update(task, completed=state.done, pace=pace)
            if not console.is_terminal and (starts or ends or now - printed >= _INTERVAL_S):
                printed = now
                line = f"{name}: {round(state.done, 1):.10g} of {state.total} images{pace and ', '}{pace}"
                console.print(line, soft_wrap=True, markup=False, highlight=False)

        yield report
