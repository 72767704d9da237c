"""One process per job: nothing of one job's process group, device state or random state reaches the next."""

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

_FORWARDED = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}


def run_job(directory: Path) -> int:
    """Run the frozen configuration in `directory` in a process of its own and wait for it.

    A signal that would end this process ends the job first: it is passed on, once, wherever it came from (the job does
    not share the terminal's process group), and the job's exit status tells of it.

    Returns:
        The job's exit status: 0, 2 for a user's mistake, 130 if interrupted, 143 on SIGTERM, 1 or negative otherwise.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "symmetry_robustness.app.job", str(directory)], start_new_session=True
    )

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(_FORWARDED[signal.Signals(number)])

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
