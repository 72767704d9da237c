"""When a sweep ends, where it can be told in closed form."""

from pathlib import Path
from typing import Any

import pytest

from symmetry_robustness.sweeps.eta import seconds_left
from symmetry_robustness.sweeps.status import JobState


def job(state: Any, **fields: Any) -> JobState:
    return JobState("", Path("run"), (), state, **fields)


def running(seconds: float, remaining: float | None, share: float = 0.5) -> JobState:
    return job("running", started=0.0, updated=seconds, remaining=remaining, step=round(1000 * share), steps=1000)


DONE = job("done", started=0.0, updated=100.0)


def test_nothing_is_left_of_what_has_ended() -> None:
    assert seconds_left([DONE, job("failed"), job("lost"), job("interrupted")]) == 0


def test_nothing_is_known_where_nothing_runs_or_tells() -> None:
    assert seconds_left([DONE, job("queued")]) is None
    assert seconds_left([job("running")]) is None
    assert seconds_left([job("running"), running(50, 50)]) == 100  # it is taken to last as long as the other


def test_jobs_that_run_side_by_side_end_with_the_last() -> None:
    assert seconds_left([DONE, running(10, 30), running(10, 70)]) == 70


def test_each_waiting_job_starts_where_one_ends_first() -> None:
    # Ends at 30 and 70; then 130, 170, 230.
    states = [DONE, running(10, 30), running(10, 70), *[job("queued")] * 3]
    assert seconds_left(states) == pytest.approx(230)


def test_waiting_jobs_last_as_long_as_the_median_of_those_that_are_done() -> None:
    done = [job("done", started=0.0, updated=seconds) for seconds in (1.0, 40.0, 10_000.0)]
    assert seconds_left([*done, running(10, 30), job("queued")]) == pytest.approx(70)
    # or run: 50 + 50, 20 + 10
    assert seconds_left([running(50, 50), running(20, 10), job("queued")]) == pytest.approx(75)


def test_a_job_that_has_hardly_begun_says_little() -> None:
    assert seconds_left([DONE, running(20, 19_980, share=0.001)]) == pytest.approx(80)
