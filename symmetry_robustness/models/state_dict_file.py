"""State dicts in files of other programs, read without running code."""

import io
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.files import require_file

# Where programs keep the state dict among other things.
_NESTED: Final = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
_DEPTH: Final = 4
_NAMED: Final = 3
SAVE: Final = "torch.save(network.state_dict(), 'weights.pt')"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict of a file, taken out of the dictionaries around it; nothing that the file could choose is run.

    Args:
        path: `.safetensors`, or what torch.save wrote (`.pt`, `.pth`).

    Raises:
        UserError: the file is missing or damaged, or holds something else or several state dicts.
    """
    require_file("weights", path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"weights {path} cannot be read ({error.strerror}); check its permissions") from error
    return _find(path, _parse_safetensors(path, content) if path.suffix == ".safetensors" else _parse(path, content))


def some(names: Iterable[str]) -> str:
    """A few of several names, and how many more there are.

    Examples:
        >>> some(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    several = list(names)
    more = f" and {len(several) - _NAMED} more" if len(several) > _NAMED else ""
    return f"{', '.join(several[:_NAMED])}{more}"


def _parse_safetensors(path: Path, content: bytes) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ModuleNotFoundError as error:
        raise UserError(
            f"weights {path} need the package safetensors; pip install 'symmetry-robustness[safetensors]'"
        ) from error
    try:
        return load(content)
    except (SafetensorError, ValueError, LookupError) as error:
        raise UserError(f"weights {path} are damaged ({one_line(error)}); copy the file again") from error


def _parse(path: Path, content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the format of a file that is then refused
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive surfaces as anything, depending on the byte
        text = str(error)
        objects = re.search(r"GLOBAL ([\w.]+)", text) if isinstance(error, pickle.UnpicklingError) else None
        if objects:
            found = f"hold a {objects[1]}, and loading objects runs code; save the state dict alone"
        elif "TorchScript" in text:
            found = "are a TorchScript archive; save the state dict alone"
        else:
            found = "are damaged or no file of torch.save; save them anew"
        raise UserError(f"weights {path} {found}: {SAVE}") from error


def _find(path: Path, content: object) -> dict[str, Tensor]:
    """The state dict in a file's content, which may lie a few dictionaries deep."""
    if _is_state_dict(content):
        return cast(dict[str, Tensor], content)
    inner = (
        {key: value for key, value in content.items() if any(_state_dicts(value))}
        if isinstance(content, Mapping)
        else {}
    )
    names = [name for name in _NESTED if name in inner] or list(inner)
    if not names:
        names = [f"a dictionary with {some(map(repr, content))}"] if isinstance(content, Mapping) and content else []
        kind = names[0] if names else f"a {type(content).__name__}"
        raise UserError(f"weights {path} hold {kind}, no state dict of tensors; save one: {SAVE}")
    rivals = [name for name, value in inner.items() if name == names[0] or _may_replace(value, inner[names[0]])]
    if len(rivals) > 1 or (names[0] not in _NESTED and len(names) > 1):
        names = rivals if len(rivals) > 1 else names
        raise UserError(f"weights {path} hold several state dicts ({some(map(str, names))}); save one of them alone")
    return _find(path, inner[names[0]])


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and any(isinstance(value, Tensor) for value in content.values())
        and all(
            isinstance(k, str) and (isinstance(v, Tensor) or k.endswith("_extra_state")) for k, v in content.items()
        )
    )


def _state_dicts(content: object, depth: int = _DEPTH) -> Iterator[dict[str, Tensor]]:
    """The state dicts in a nesting of dictionaries."""
    if _is_state_dict(content):
        yield cast(dict[str, Tensor], content)
    elif depth and isinstance(content, Mapping):
        for value in content.values():
            yield from _state_dicts(value, depth - 1)


def _may_replace(content: object, chosen: object) -> bool:
    """Whether one entry holds tensors of all shapes that another's first state dict has, as averaged weights do."""
    needed = _shapes(next(_state_dicts(chosen)))
    return any(needed <= _shapes(found) for found in _state_dicts(content))


def _shapes(found: Mapping[str, Tensor]) -> Counter[torch.Size]:
    return Counter(value.shape for value in found.values() if isinstance(value, Tensor))
