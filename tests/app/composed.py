"""Configurations that several tests ask about, composed once."""

import functools
from itertools import zip_longest

from omegaconf import DictConfig, OmegaConf

from symmetry_robustness import load_config
from symmetry_robustness.app.config import config_directory

TRANSFER = ("transfer", "transfer_tuned")  # protocols which take other networks


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (config_directory() / group).glob("*.yaml"))


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """A training's configuration, which no test can change."""
    config = load_config("train", overrides)
    OmegaConf.set_readonly(config, True)
    return config


def _overrides(*groups: str) -> list[str]:
    return [f"{g}={o}" for g in groups for o in options(g) if not (g == "robustness" and o in TRANSFER)]


# A defence chooses the objective or the augmentation, so that it stands where these are left alone.
_COLUMNS = (
    _overrides("model"),
    _overrides("objective", "defence"),
    _overrides("robustness"),
    _overrides("augmentation"),
    *map(_overrides, ("data", "data/test_transform", "optimizer", "trainer", "logger", "averaging")),
)
# Every option of these groups, one for each network as long as there are any: composing costs the same for one and ten.
EVERY_OPTION = [tuple(override for override in row if override) for row in zip_longest(*_COLUMNS)]
