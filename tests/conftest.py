import os

import pytest
import torch

# Read once, at import: no test speaks to a tracker's server.
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)
