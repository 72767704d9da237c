import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks on four images: with several threads most of the time is waiting for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def _composed(name: str, overrides: tuple[str, ...], num_classes: int) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(f"model/{name}", overrides=[f"+data.num_classes={num_classes}", *overrides])
    with open_dict(config):
        config.model.pop("title", None)  # as load_config does: no setting of the network
    return config


@pytest.fixture
def compose_model() -> Callable[..., DictConfig]:
    """Composes a file of conf/model alone, with ten classes unless told otherwise."""

    def compose_one(name: str, *overrides: str, num_classes: int = 10) -> DictConfig:
        return _composed(name, overrides, num_classes).copy()

    return compose_one
