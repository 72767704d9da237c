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
    done = [state.elapsed for state in states if state.state == "done" and state.elapsed]
    predicted = [s.elapsed + s.remaining for s in running if s.elapsed and s.remaining is not None and _tells(s)]
    usual = statistics.median(done or predicted) if done or predicted else None
    if waiting and usual is None:
        return None
    ends = list[float]()
    for state in running:
        if state.remaining is not None and (_tells(state) or usual is None):
            ends.append(state.remaining)
        elif usual is not None:
            ends.append(max(0.0, usual - (state.elapsed or 0.0)))
        else:
            return None
    heapq.heapify(ends)
    for _ in range(waiting):
        heapq.heapreplace(ends, ends[0] + (usual or 0.0))
    return max(ends)


def _tells(state: JobState) -> bool:
    return state.fraction_done >= _PREDICTIVE
