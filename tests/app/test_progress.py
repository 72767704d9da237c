import io

from rich.console import Console

from symmetry_robustness.app.progress import duration, shown_progress
from symmetry_robustness.robustness import Progress


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 3599, 3661)] == ["0:00", "1:00", "59:59", "1:01:01"]


def test_lines_are_few_and_speed_counts_from_the_first_report() -> None:
    clock, file = Clock(), io.StringIO()
    with shown_progress(Console(file=file, width=20), clock) as report:
        for done in range(600, 701):
            report(Progress("attacks", done, 700))
            clock.seconds += 1
        report(Progress("measures.pixel_removal", 3.26, 4))
        report(Progress("measures.other", 0, 2))
    assert file.getvalue().splitlines() == [
        "attacks: 600 of 700 images",
        "attacks: 630 of 700 images, 1 images/s, 1:10 left",
        "attacks: 660 of 700 images, 1 images/s, 0:40 left",
        "attacks: 690 of 700 images, 1 images/s, 0:10 left",
        "attacks: 700 of 700 images, 1 images/s, 0:00 left",
        "pixel removal: 3.3 of 4 images",
        "other: 0 of 2 images",
    ]


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    with shown_progress(Console(file=file, force_terminal=True, width=120)) as report:
        report(Progress("attacks", 0, 8))
        report(Progress("attacks", 8, 8))
    assert "8/8" in file.getvalue()
    assert "images/s" in file.getvalue()
