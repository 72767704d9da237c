"""A disk cache of arrays that take seconds to compute.

A file's name is the digest of everything that decides its contents, so there is nothing to update or to lock: whoever
finds no file computes the arrays and puts them there in one step. The folder may be deleted at any time.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from symmetry_robustness.files import DAMAGED_ARCHIVE, replace_file

# Environment variable that names the folder.
VARIABLE = "SYMMETRY_ROBUSTNESS_CACHE"

_log = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[np.float32]]


def cache_folder() -> Path:
    """Folder of the files: $SYMMETRY_ROBUSTNESS_CACHE, or symmetry_robustness in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # Relative paths are to be ignored, says the XDG base directory specification.
    return (Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()) / "symmetry_robustness"


def load_or_compute(
    key: Mapping[str, object], compute: Callable[[], Arrays], accept: Callable[[Arrays], bool]
) -> Arrays:
    """Load arrays from the cache, or compute and store them; a cache that cannot be used costs time only.

    Args:
        key: all settings of the arrays, as plain values.
        compute: makes the arrays.
        accept: whether loaded arrays have the shapes and types of computed ones.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = None
    try:
        path = cache_folder() / f"{digest[:32]}.npz"
        arrays = _read(path)
    except DAMAGED_ARCHIVE as error:
        _log.debug("kernels are computed: %s", error)
    else:
        if accept(arrays):
            return arrays
        _log.debug("kernels are computed: %s has other shapes", path)
    arrays = compute()
    if path is not None:
        try:
            replace_file(path, lambda file: np.savez(file, **dict[str, Any](arrays)))
        except OSError as error:
            _log.debug("kernels are not stored: %s", error)
    return arrays


def _read(path: Path) -> Arrays:
    # Plain numbers only: a file cannot run code.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
