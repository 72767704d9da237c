"""Networks from checkpoint files, without running code from them."""

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from yaml import AliasToken, YAMLError, scan

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.files import require_file
from symmetry_robustness.layers.export import export
from symmetry_robustness.models.build import build_network_from_untrusted

# The training module holds the network under this name, beside metrics and the like.
PREFIX = "network."

# As any of these a damaged archive surfaces, depending on the byte.
DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read once.

    Args:
        network: in evaluation mode and in plain layers, on the CPU.
        config: the whole configuration of the run as plain containers, as the file states it; before anything but the
            network is built from it, `require_trusted` must have passed it.
        digest: SHA-256 of the file, hexadecimal.
    """

    network: nn.Module
    config: dict[str, Any]
    digest: str


def load_checkpoint(path: Path | str, trusted: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint and rebuild its network; nothing that the file could choose is run.

    Args:
        path: file with `config`, the resolved configuration as YAML, and `state_dict`.
        trusted: modules of your own, such as "gabor", whose layers the file may name; ours alone without it.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or its weights do not fit its configuration.
    """
    path = Path(path)
    content = _read(path)
    parts = _parse(path, content)
    config = _parse_config(path, parts["config"])
    network = build_network_from_untrusted(config, trusted)
    weights = {key.removeprefix(PREFIX): value for key, value in parts["state_dict"].items() if key.startswith(PREFIX)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = one_line(error)[:300]
        raise UserError(
            f"checkpoint {path} does not fit its own configuration ({reason}); "
            "it is damaged or comes from another version"
        ) from error
    return Checkpoint(export(network), config, hashlib.sha256(content).hexdigest())


def load_network(checkpoint: Path | str, trusted: Sequence[str] = ()) -> nn.Module:
    """The network of a checkpoint, in evaluation mode and in plain layers; see `load_checkpoint`."""
    return load_checkpoint(checkpoint, trusted).network


def _read(path: Path) -> bytes:
    require_file("checkpoint", path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); check its permissions") from error


def _parse(path: Path, content: bytes) -> Mapping[str, Any]:
    """The two parts of a checkpoint that are needed, as plain tensors and values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the format of a file that is then refused
            parts = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (*DAMAGE, OSError) as error:
        raise UserError(
            f"checkpoint {path} is damaged or no checkpoint of plain tensors; copy it again or choose another"
        ) from error
    if not (
        isinstance(parts, Mapping)
        and isinstance(parts.get("config"), str)
        and isinstance(weights := parts.get("state_dict"), Mapping)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items())
    ):
        raise UserError(f"checkpoint {path} lacks config or state_dict; choose one that `symrob train` wrote")
    return parts


def _parse_config(path: Path, text: str) -> dict[str, Any]:
    """A configuration in YAML as plain containers, with nothing resolved and a node `model`."""
    try:
        if any(isinstance(token, AliasToken) for token in scan(text)):  # a few of them can unfold to gigabytes
            raise UserError(f"checkpoint {path} repeats parts of its configuration by alias; do not trust the file")
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint {path} holds an unreadable configuration; it is damaged") from error
    if not (isinstance(config, dict) and isinstance(config.get("model"), dict)):
        raise UserError(f"checkpoint {path} has no model in its configuration; choose another")
    return {str(key): value for key, value in config.items()}
