"""JSON files of a run, which another process may be writing, or may have left half written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from symmetry_robustness.files import replace_file
from symmetry_robustness.runs.terminal import printable

_LARGEST: Final = 2**20  # bytes; a job's own files have a thousandth of it


def write_json(path: Path, content: Any, *, durable: bool = False) -> None:
    """Write JSON in one step, see `replace_file`."""
    replace_file(path, json.dumps(content, indent=2) + "\n", durable=durable)


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None if it is absent, empty if it is damaged, unreadable or no mapping."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return {} if path.exists() else None
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def number(content: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a mapping, else None."""
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        return None
    return value


def text(content: Mapping[str, Any], name: str) -> str | None:
    """A printable line of a mapping, or a number in its place, else None."""
    value = content.get(name)
    return printable(str(value)) or None if isinstance(value, str | int) else None
