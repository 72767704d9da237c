"""The time until a sweep has ended."""

import heapq
import statistics
from collections.abc import Sequence
from typing import Final

from symmetry_robustness.sweeps.status import JobState

# A job's own pace predicts its end once this part of it is done; before, imports and first steps weigh too much.
_PREDICTIVE: Final = 0.05


def seconds_left(states: Sequence[JobState]) -> float | None:
    """Seconds until the last running or queued job has ended, if as many run at once as now.

    A queued job is taken to last as long as the median of those that are done, or else of those that run; each starts
    where one ends first.

    Returns:
        0 if nothing runs or waits; None if nothing runs but jobs wait, or too little is known.
    """
    running = [state for state in states if state.state == "running"]
    waiting = sum(state.state == "queued" for state in states)
    if not running:
        return None if waiting else 0.0
    usual = _usual_seconds(states)
    ends = [_own_or_usual(state, usual) for state in running]
    if None in ends or (waiting and usual is None):
        return None
    left = [end for end in ends if end is not None]
    heapq.heapify(left)
    for _ in range(waiting):
        heapq.heapreplace(left, left[0] + (usual or 0.0))
    return max(left)


def _own_or_usual(state: JobState, usual: float | None) -> float | None:
    """Seconds left of a running job, by its own pace or by the usual duration."""
    if state.remaining is not None and (state.fraction_done >= _PREDICTIVE or usual is None):
        return state.remaining
    return None if usual is None else max(0.0, usual - (_elapsed(state) or 0.0))


def _usual_seconds(states: Sequence[JobState]) -> float | None:
    """The median duration of jobs that are done, or else of those that run."""
    done = [seconds for state in states if state.state == "done" and (seconds := _elapsed(state))]
    predicted = [
        seconds + state.remaining
        for state in states
        if state.state == "running" and state.fraction_done >= _PREDICTIVE and state.remaining is not None
        if (seconds := _elapsed(state))
    ]
    return statistics.median(done or predicted) if done or predicted else None


def _elapsed(state: JobState) -> float | None:
    """Seconds from the start of a job's process to its last sign of life."""
    return None if state.started is None or state.updated is None else max(0.0, state.updated - state.started)
