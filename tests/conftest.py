import atexit
import logging
import os
import shutil
import signal
import tempfile

import pytest
import torch
from torch import Tensor, nn

# Read once, at import: no test speaks to a tracker's server.
os.environ["WANDB_MODE"] = "offline"
# Neither do tests find what other runs left in the user's cache, nor the other way round; workers share theirs.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["SYMMETRY_ROBUSTNESS_CACHE"] = tempfile.mkdtemp(prefix="symmetry_robustness-")
    atexit.register(shutil.rmtree, os.environ["SYMMETRY_ROBUSTNESS_CACHE"], ignore_errors=True)
# A command that is started in the background ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_log() -> None:
    """Messages reach pytest's `caplog`, though a command that ran in this process before took them for its own log.

    Hydra, too, disables every logger that exists when it starts; importing its Optuna sweeper raises the root's level.
    """
    package = logging.getLogger("symmetry_robustness")
    package.handlers, package.propagate = [], True
    package.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("symmetry_robustness") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """A small convolutional network, untrained, in evaluation mode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.rand((30, 3, 8, 8), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def labels(network: nn.Module, images: Tensor) -> Tensor:
    """Predictions of the network, of which every fifth is made wrong."""
    with torch.no_grad():
        predictions = network(images).argmax(1)
    predictions[::5] = (predictions[::5] + 1) % 5
    return predictions
