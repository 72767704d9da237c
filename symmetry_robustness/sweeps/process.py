"""One process per job: nothing of one job's process group, device state or random state reaches the next."""

import subprocess
import sys
from pathlib import Path


def run_job(directory: Path) -> int:
    """Run the frozen configuration in `directory` in a process of its own and wait for it.

    Returns:
        The job's exit status: 0, 2 for a user's mistake, 130 if interrupted, 1 or negative (a signal) otherwise.

    Raises:
        KeyboardInterrupt: the user interrupted; the job, which got the same signal, has ended by then.
    """
    process = subprocess.Popen([sys.executable, "-m", "symmetry_robustness.app.job", str(directory)])
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
