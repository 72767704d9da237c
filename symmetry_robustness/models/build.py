"""From configuration to network."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.models.trust import require_trusted

# Packages of ours whose classes a checkpoint may name; they only hold layers.
TRUSTED_PACKAGES = ("symmetry_robustness.models", "symmetry_robustness.layers")


def build_network(config: DictConfig | Mapping[str, Any]) -> nn.Module:
    """Build the network that a configuration describes; it calls what `_target_` names, so the source must be trusted.

    Args:
        config: the root configuration, whose node `model` is used, or that node itself. A network that takes an
            `image_size` and is not given one gets `data.image_size`, if the root states it.

    Raises:
        UserError: a setting is missing, unknown or invalid.

    Examples:
        >>> from symmetry_robustness import load_config
        >>> network = build_network(load_config("train", ["model=standard_4layer"]))
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if not isinstance(config, DictConfig | Mapping):
        raise UserError(f"config must be a configuration, got {type(config).__name__}; see load_config")
    node: Any = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    try:
        image_size = None
        if "_target_" not in node:
            image_size, node = OmegaConf.select(node, "data.image_size"), node.get("model")
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise UserError("model has no _target_; choose a file of conf/model, as in model=standard")
    except OmegaConfBaseException as error:
        raise UserError(f"model is incomplete: {one_line(error)}; set what is missing") from error
    return instantiate_network(
        node, "model", "compare it with the files of conf/model", **_missing_size(node, image_size)
    )


def instantiate_network(node: DictConfig, name: str, remedy: str, **settings: object) -> nn.Module:
    """Call what the `_target_` of a node names, which must be trusted.

    Args:
        node: with `_target_` and settings.
        name: of the node, for messages.
        remedy: where to look if it cannot be built.
        settings: further ones.

    Raises:
        UserError: a setting is missing, unknown or invalid, or the result is no network.
    """
    try:
        network = instantiate(node, _convert_="all", **settings)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = one_line(error.__cause__ or error)
        raise UserError(f"{name} cannot be built: {reason}; {remedy}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{name} is incomplete: {one_line(error)}; set what is missing") from error
    except SystemExit as error:
        raise UserError(f"{name} cannot be built: it ends the program with status {error.code}; {remedy}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} must be a network, got {type(network).__name__}; {remedy}")
    return network


def _missing_size(node: DictConfig, image_size: object) -> dict[str, int]:
    """The `image_size` that a network takes and its node does not state."""
    if not isinstance(image_size, int) or "image_size" in node:
        return {}
    takes_it = "image_size" in inspect.signature(get_object(str(node["_target_"]))).parameters
    return {"image_size": image_size} if takes_it else {}


def build_network_from_untrusted(config: Mapping[str, Any], trusted: Sequence[str] = ()) -> nn.Module:
    """Build a network from a description that came with a file, without running anything the file chooses.

    Args:
        config: plain root configuration or node `model`; the latter may name only our own layers and networks, and
            those of trusted modules, and nothing is interpolated.
        trusted: packages and modules of the caller's own; the file may choose among their subclasses of `nn.Module`, to
            which end their modules are imported.

    Raises:
        UserError: the description asks for anything else, or cannot be built.
    """
    model, data = config if "_target_" in config else config.get("model"), config.get("data")
    require_trusted(model, "model", TRUSTED_PACKAGES, trusted, nn.Module)
    size = data.get("image_size") if isinstance(data, Mapping) else None
    return build_network({"model": model, "data": {"image_size": size if isinstance(size, int) else None}})
