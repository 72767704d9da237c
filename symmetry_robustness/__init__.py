"""Does building symmetry into a CNN make it robust? Train, attack and compare, with PyTorch Lightning and Hydra."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symmetry_robustness.app.config import load_config
    from symmetry_robustness.models import build_network, load_network, load_weights, wrap

__all__ = ["build_network", "load_config", "load_network", "load_weights", "wrap"]

# Imported on first use, so that `symrob --help` does not wait for torch.
_HOME = {"load_config": "app.config"} | dict.fromkeys(
    ["build_network", "load_network", "load_weights", "wrap"], "models"
)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
