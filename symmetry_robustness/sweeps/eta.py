"""When a sweep will have ended."""

import heapq
import statistics
from collections.abc import Sequence
from typing import Final

from symmetry_robustness.sweeps.status import JobState

# Share of a job from which on its own pace tells when it ends; before, the imports and first steps weigh too much.
_TELLING: Final = 0.05


def seconds_left(states: Sequence[JobState]) -> float | None:
    """Seconds until the last job that runs or waits has ended, if as many go on running at once as do now.

    A waiting job is taken to last as long as the median of those that are done, or else of those that run. Each starts
    where one ends first.

    Returns:
        0 where nothing runs or waits; None where nothing runs, or too little is known of what does.
    """
    running = [state for state in states if state.state == "running"]
    waiting = sum(state.state == "queued" for state in states)
    if not running:
        return None if waiting else 0.0
    usual = _usual_seconds(states)
    left = []
    for state in running:
        if state.remaining is not None and (state.share >= _TELLING or usual is None):
            left.append(state.remaining)
        elif usual is not None:
            left.append(max(0.0, usual - (_seconds(state) or 0.0)))
    if len(left) < len(running) or (waiting and usual is None):
        return None
    heapq.heapify(left)
    for _ in range(waiting):
        heapq.heapreplace(left, left[0] + (usual or 0.0))
    return max(left)


def _usual_seconds(states: Sequence[JobState]) -> float | None:
    """How long a job usually lasts."""
    done = [seconds for state in states if state.state == "done" and (seconds := _seconds(state))]
    going = [
        seconds + state.remaining
        for state in states
        if state.state == "running"
        and state.share >= _TELLING
        and state.remaining is not None
        and (seconds := _seconds(state))
    ]
    known = done or going
    return statistics.median(known) if known else None


def _seconds(state: JobState) -> float | None:
    """From the start of a job's process to its last sign of life."""
    return None if state.started is None or state.updated is None else max(0.0, state.updated - state.started)
