"""Work that several tests need, done once although the workers of pytest-xdist share no memory."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from symmetry_robustness.files import locked

Result = TypeVar("Result")


def once_for_all_workers(make: Callable[..., Result]) -> Callable[..., Result]:
    """`functools.cache` over all workers: the first that asks keeps the result in a file, which the others wait for.

    Args:
        make: of arguments that a file can be named after; its result can be pickled.
    """

    @functools.cache
    def made(*key: Any) -> Result:
        name = "-".join(map(str, (make.__module__, make.__qualname__, *key)))
        path = Path(os.environ["SYMMETRY_ROBUSTNESS_CACHE"]) / f"{name}.pt"
        with locked(path.with_suffix(".lock"), wait=lambda: None):
            if not path.exists():  # whole, since nobody reads it before the lock is free
                torch.save(make(*key), path)
        result: Result = torch.load(path, weights_only=False)
        return result

    return made
