"""Networks from checkpoint files, without running code from them."""

import errno
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from yaml import AliasToken, YAMLError, scan

from symmetry_robustness.errors import UserError
from symmetry_robustness.models.build import build_network_from_untrusted
from symmetry_robustness.models.network import export

# The training module holds the network under this name, beside metrics and the like.
PREFIX = "network."

# As any of these a damaged archive surfaces, depending on the byte.
DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError)


def load_network(checkpoint: Path | str, trusted: Sequence[str] = ()) -> nn.Module:
    """Rebuild the network of a checkpoint, in evaluation mode and in plain layers.

    Args:
        checkpoint: file with `config`, the resolved configuration as YAML, and `state_dict`.
        trusted: modules of your own, such as "gabor", whose layers the file may ask for; ours alone without it.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or its weights do not fit its configuration.
    """
    checkpoint = Path(checkpoint)
    contents = _read(checkpoint)
    network = build_network_from_untrusted(_model_node(contents["config"], checkpoint), trusted)
    weights = contents["state_dict"]
    try:
        network.load_state_dict(
            {key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)}
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"checkpoint {checkpoint} does not fit its own configuration ({reason}); "
            "it is damaged or comes from another version"
        ) from error
    return export(network)


def _read(checkpoint: Path) -> Mapping[str, Any]:
    """Read the file as plain tensors and values, and check that it has the two parts that are needed."""
    if not checkpoint.is_file():
        raise UserError(f"checkpoint {checkpoint} is no file; give a .ckpt of a run directory's checkpoints/")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the format of a file that is then refused
            contents = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is a place before the file's beginning
            raise UserError(f"checkpoint {checkpoint} cannot be read ({error}); check its permissions") from error
        raise UserError(
            f"checkpoint {checkpoint} is damaged or no checkpoint of plain tensors; copy it again or choose another"
        ) from error
    if not (
        isinstance(contents, Mapping)
        and isinstance(contents.get("config"), str)
        and isinstance(weights := contents.get("state_dict"), Mapping)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items())
    ):
        raise UserError(f"checkpoint {checkpoint} lacks config or state_dict; choose one that `symrob train` wrote")
    return contents


def _model_node(config: str, checkpoint: Path) -> dict[str, Any]:
    """The model node of a configuration in YAML, as a plain dictionary with nothing resolved."""
    try:
        if any(isinstance(token, AliasToken) for token in scan(config)):  # a few of them can unfold to gigabytes
            raise UserError(
                f"checkpoint {checkpoint} repeats parts of its configuration by alias; do not trust the file"
            )
        root = OmegaConf.to_container(OmegaConf.create(config), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"checkpoint {checkpoint} holds an unreadable configuration; it is damaged") from error
    model = root.get("model") if isinstance(root, dict) else None
    if not isinstance(model, dict):
        raise UserError(f"checkpoint {checkpoint} has no model in its configuration; choose another")
    return model
