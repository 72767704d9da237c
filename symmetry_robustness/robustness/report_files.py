"""A JSON file and an npz file of one stem, written so that neither is ever seen half-finished."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import DAMAGED_ARCHIVE, replace_file

_FORMAT: Final = 1


def write_pair(base: Path, content: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Path:
    """Write `base.npz`, then `base.json`; returns the path of the latter. Numbers JSON cannot hold become null."""
    named: dict[str, Any] = dict(arrays)
    replace_file(Path(f"{base}.npz"), lambda file: np.savez_compressed(file, **named), durable=True)
    text = json.dumps(_finite({"format": _FORMAT, **content}), indent=2, allow_nan=False) + "\n"
    replace_file(Path(f"{base}.json"), text, durable=True)
    return Path(f"{base}.json")


def read_pair(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Content and arrays from the path of either file, or of both without the ending.

    Raises:
        UserError: where a file is missing, damaged or of another format.
    """
    base = str(path.with_suffix("")) if path.suffix in (".json", ".npz") else str(path)
    try:
        content: dict[str, Any] = json.loads(Path(f"{base}.json").read_text(encoding="utf-8"))
        # Opened here, because numpy leaves a file it cannot read open.
        with Path(f"{base}.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(f"report {base}: {error.filename} is missing; evaluate again") from None
    except DAMAGED_ARCHIVE as error:
        raise UserError(f"report {base} is damaged ({str(error).partition(chr(10))[0]}); evaluate again") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != _FORMAT:
        raise UserError(f"report {base} has format {found}, expected {_FORMAT}; evaluate again")
    return content, arrays


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
