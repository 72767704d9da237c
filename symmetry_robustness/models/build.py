"""From configuration to network."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from symmetry_robustness.errors import UserError, one_line

# What a checkpoint file may ask to be built: classes of ours that only hold layers.
TRUSTED_PACKAGES = ("symmetry_robustness.models.", "symmetry_robustness.layers.")


def build_network(config: DictConfig | Mapping[str, Any]) -> nn.Module:
    """Build the network that a configuration describes; it calls what `_target_` names, so the source must be trusted.

    Args:
        config: the root configuration, whose node `model` is used, or that node itself.

    Raises:
        UserError: a setting is missing, unknown or cannot be.
    """
    node: Any = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    try:
        if "_target_" not in node:
            node = node.get("model")
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise UserError("model has no _target_; choose a file of conf/model, as in model=standard")
        network = instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = one_line(error.__cause__ or error)
        raise UserError(f"model cannot be built: {reason}; compare it with the files of conf/model") from error
    except OmegaConfBaseException as error:
        raise UserError(f"model is incomplete: {one_line(error)}; set what is missing") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model must be a network, got {type(network).__name__}; choose a file of conf/model")
    return network


def build_network_from_untrusted(model: Mapping[str, Any], trusted: Sequence[str] = ()) -> nn.Module:
    """Build a network from a description that came with a file, without running anything the file chooses.

    Args:
        model: plain model node; only our own layers and networks, and those of trusted modules, may be named in it, and
            nothing is interpolated.
        trusted: packages and modules of the caller's own; the file may choose among their subclasses of `nn.Module`, to
            which end their modules are imported.

    Raises:
        UserError: the description asks for anything else, or cannot be built.
    """
    if isinstance(trusted, str):
        raise UserError(f"trusted must be a list of modules, got {trusted!r}; write [{trusted!r}]")
    _require_harmless(model, (*TRUSTED_PACKAGES, *(f"{name}." for name in trusted)))
    return build_network(model)


def _require_harmless(node: object, packages: tuple[str, ...]) -> None:
    """Walk a plain container; raise at the first thing that is not a plain value or a module of one of the packages."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                _require_trusted_module(value, packages)
            elif not isinstance(key, str) or key.startswith("_"):
                raise UserError(f"model of the checkpoint has the key {key!r}; do not trust the file")
            else:
                _require_harmless(value, packages)
    elif isinstance(node, list | tuple):
        for value in node:
            _require_harmless(value, packages)
    elif isinstance(node, str):
        if "${" in node:  # an interpolation can read files and the environment
            raise UserError(f"model of the checkpoint holds {node!r}, which is not resolved; do not trust the file")
    elif not isinstance(node, bool | int | float | None):
        raise UserError(f"model of the checkpoint holds a {type(node).__name__}; do not trust the file")


def _require_trusted_module(target: object, packages: tuple[str, ...]) -> None:
    """Check that a `_target_` is a layer or network class defined in the very module that it names."""
    module_name, _, name = str(target).rpartition(".")
    if f"{module_name}.".startswith(packages):
        try:
            found = getattr(importlib.import_module(module_name), name, None)
        except ModuleNotFoundError as error:
            raise UserError(
                f"the checkpoint asks for {target!r}, whose module is not found ({error}); do not trust the file, or "
                "add the module's folder to PYTHONPATH if it is yours"
            ) from error
        if isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module_name:
            return
    raise UserError(
        f"model of the checkpoint asks for {target!r}, which is no network of ours; do not trust the file, "
        "unless that module is yours: then add it to trusted=[…]"
    )
