import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local_slurm import LocalSlurm, missing_programs


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalSlurm]:
    """A Slurm of two nodes, gone when this process is, even by kill -9."""
    if problem := missing_programs():
        (pytest.fail if os.environ.get("SYMROB_REQUIRE_SLURM") == "1" else pytest.skip)(problem)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        slurm = LocalSlurm(Path(folder), port=20000 + os.getpid() % 1000 * 10)
        script = Path(__file__).with_name("local_slurm.py")
        guard = subprocess.Popen(
            [sys.executable, str(script), "stop", "--after-input"],
            env=os.environ | {"LOCAL_SLURM_DIR": folder},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        slurm.start(2)
        yield slurm
        guard.communicate()
