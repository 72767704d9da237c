"""The first rank's knowledge of the others."""

import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
from hydra.utils import instantiate

from symmetry_robustness import load_config
from symmetry_robustness.runs.ranks import Ranks


def test_a_rank_that_is_just_being_killed_is_named(tmp_path: Path) -> None:
    trainer = instantiate(load_config("train", ["trainer=ddp_cpu"]).trainer, logger=False, enable_checkpointing=False)
    with patch.dict(os.environ):  # what ranks are told
        ranks = Ranks(trainer, tmp_path, pytest.fail)
        try:
            ranks._processes[1].send(signal.SIGKILL)
            assert ranks.lost() == "rank 1 was ended by SIGKILL"
        finally:
            ranks.end()
