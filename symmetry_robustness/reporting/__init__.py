"""From run directories to tables and figures; reads files only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symmetry_robustness.reporting.frame import load_runs

__all__ = ["load_runs"]


def __getattr__(name: str) -> Any:
    if name != "load_runs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported on first use: a training that draws a figure does not wait for pandas.
    return import_module(f"{__name__}.frame").load_runs
