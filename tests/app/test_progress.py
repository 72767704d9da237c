import io

from rich.console import Console

from symmetry_robustness.app.progress import Speed, duration, line_reporter, shown_progress
from symmetry_robustness.robustness import Progress


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_speed_and_time_left_count_from_the_first_report() -> None:
    clock = Clock()
    speed = Speed(clock)
    assert speed.describe(600, 1000) == ""
    clock.seconds += 10
    assert speed.describe(620, 1000) == "2 images/s, 3:10 left"


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 3599, 3661)] == ["0:00", "1:00", "59:59", "1:01:01"]


def test_lines_are_few() -> None:
    clock, lines = Clock(), []
    report = line_reporter(lines.append, clock)
    for done in range(0, 101):
        report(Progress("attacks", done, 100))
        clock.seconds += 1
    report(Progress("measures.clever", 3.26, 4))
    report(Progress("measures.removal", 0, 2))
    assert lines == [
        "attacks: 0 of 100 images",
        "attacks: 30 of 100 images, 1 images/s, 1:10 left",
        "attacks: 60 of 100 images, 1 images/s, 0:40 left",
        "attacks: 90 of 100 images, 1 images/s, 0:10 left",
        "attacks: 100 of 100 images, 1 images/s, 0:00 left",
        "clever: 3.3 of 4 images",
        "removal: 0 of 2 images",
    ]


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    with shown_progress(Console(file=file, force_terminal=True, width=120)) as report:
        report(Progress("attacks", 0, 8))
        report(Progress("attacks", 8, 8))
    assert "8/8" in file.getvalue()
    assert "images/s" in file.getvalue()
