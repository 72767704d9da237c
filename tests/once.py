"""Work that several tests need, done once although the workers of pytest-xdist share no memory."""

import fcntl
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

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
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                whole = path.with_suffix(".part")
                torch.save(make(*key), whole)
                whole.rename(path)
        result: Result = torch.load(path, weights_only=False)
        return result

    return made
