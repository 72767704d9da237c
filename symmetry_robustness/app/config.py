"""Composes a configuration, and refuses a wrong one before anything runs."""

import contextlib
import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from symmetry_robustness.app.schema import register_schemas
from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.runs.exit_status import user_message

_PACKAGE = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"(?!\.)[\w.=,+\- ()]{1,100}")
_NO_LIST = {"list_type", "sequence_str", "tuple_type"}  # of pydantic's errors
_USUAL_PARTS = {"model/branch": "multiscale", "model/trunk": "plain"}  # which names and titles do not mention
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_OF_NETWORKS = ("weights", "weights_prefix", "mean", "std", "training_seed", "title", "group")  # of symrob evaluate
_SPLITS = ("train", "validation", "test")
_RESERVED = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def config_directory() -> Path:
    """The folder conf/: beside the package in a checkout, inside it in an installed wheel."""
    beside = _PACKAGE.parent / "conf"
    return beside if (beside / "train.yaml").is_file() else _PACKAGE / "conf"


def load_config(app: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose, resolve and check the configuration of a command.

    Args:
        app: "train" or "evaluate".
        overrides: Hydra overrides as on the command line, e.g. `["model=cascaded", "seed=1"]`.

    Returns:
        The resolved configuration.

    Raises:
        UserError: an unknown app, name or value.

    Examples:
        >>> config = load_config("train", ["model=cascaded_4layer", "optimizer.lr=0.01"])
        >>> config.optimizer.lr, config.model.stem.channels % 4
        (0.01, 0)
    """
    if app not in ("train", "evaluate"):
        raise UserError(f"app must be 'train' or 'evaluate', got {app!r}")
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise UserError(f"overrides must be a list of strings, got {overrides!r}; write ['model=standard']")
    register_schemas()
    try:
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            config = compose(app, overrides=open_network(overrides), return_hydra_config=True)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            del config["hydra"]
        return finalize_config(config, choices)
    except Exception as error:
        message = user_message(error)
        if message is None or isinstance(error, UserError):
            raise
        raise UserError(message) from error


def open_network(overrides: Sequence[str]) -> list[str]:
    """Overrides of `symrob evaluate` in which `network.…` needs no plus, whatever settings a class of the user's has.

    Examples:
        >>> open_network(["network.width=8", "data=shapes"])
        ['++network.width=8', 'data=shapes']
    """
    return [f"++{word}" if word.startswith(("network.", "network=")) else word for word in overrides]


def finalize_config(config: DictConfig, choices: typing.Mapping[str, Any] | None = None) -> DictConfig:
    """Fill in the names that follow from Hydra's choices, resolve every interpolation and check every value.

    Raises:
        UserError: a value that is missing, cannot be resolved, or is not what its class declares.
        InstantiationException: a protocol that its classes refuse, from the UserError that says why.
    """
    config = resolve_config(config, choices)
    check_classes(config)
    return config


def resolve_config(config: DictConfig, choices: typing.Mapping[str, Any] | None = None) -> DictConfig:
    """Fill in names and resolve every interpolation; no class is imported.

    Raises:
        UserError: a value that is missing, cannot be resolved, or is wrong whatever the classes declare.
    """
    choices = HydraConfig.get().runtime.choices if choices is None else choices
    config = config.copy()
    if "model" in config:
        _require_its_defence(choices)
        title = _take_title(config.model, choices)
        config.title = config.title or ("" if config.name else title)
        config.name = config.name or _network_name(choices)
        config.group = config.group or choices["experiment"]
        if config.averaging is None:  # runs from before there was a choice are the same jobs
            with open_dict(config):
                del config["averaging"]
    else:
        config.protocol = choices["robustness"]
        _check_evaluation(config)
        _require_one_subject(config)
        config.name = config.name or config.protocol
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{error.full_key or 'configuration'}: {reason}") from error
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must lie in 0 … 2^32 - 1, got {config.seed}; 0 is the default")
    if not _NAME.fullmatch(config.name):
        raise UserError(f"name={config.name} would be a bad name for a file; take letters, digits and ._=,+- only")
    if config.get("resume", "never") not in ("auto", "never"):
        raise UserError(f"resume must be auto or never, got {config.resume!r}; never is the default")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} is not set; give it on the command line as {missing[0]}=…")
    _check_known(config, "")
    return config


def _require_its_defence(choices: typing.Mapping[str, Any]) -> None:
    """Refuse a choice beside a defence (one, not several) that makes another one, which Hydra would drop."""
    defence = choices.get("defence")
    path = config_directory() / "defence" / f"{defence}.yaml"
    defaults = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    for entry in (isinstance(defaults, dict) and defaults.get("defaults")) or ():
        for key, own in entry.items() if isinstance(entry, dict) else ():
            group = str(key).removeprefix("override /")
            if isinstance(own, str) and choices.get(group, own) != own:
                raise UserError(f"{group}={choices[group]}: defence={defence} chooses {group}={own}; give one of them")


def check_classes(config: DictConfig) -> None:
    """Check every value by the class of its `_target_`, which is imported for it; raises as `finalize_config`."""
    check_targets(config, "")
    if config.robustness:
        instantiate(config.robustness, _convert_="all")  # attacks validate their own settings


def _check_known(node: DictConfig, path: str) -> None:
    """Refuse settings that Hydra's `+` has added to a node whose settings are fixed.

    Raises:
        UserError: names the first one, and the nearest that exists.
    """
    kind = OmegaConf.get_type(node)
    if not is_dataclass(kind):
        return
    known = [field.name for field in fields(kind)]
    for name in map(str, node):
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean {path}{near[0]}?" if near else f"choose from {', '.join(known)}"
            raise UserError(f"{path}{name} is no setting; {remedy}")
        if isinstance(child := node._get_node(name), DictConfig) and not child._is_none():
            _check_known(child, f"{path}{name}.")


def check_targets(node: DictConfig, path: str) -> None:
    """Validate every name and value below `node`, at `path`, against the signature of its class.

    Numbers and truth values that are written in another way than the class declares, as 1e4 for an integer, are
    replaced in `node`.

    Raises:
        UserError: an unknown class, an unknown or missing name, or a value of another type.
    """
    checked = OmegaConf.to_container(node)
    for place, child in _targets(checked, path):
        _check_target(place, child)
    _replace_converted(node, OmegaConf.to_container(node), checked)


def _replace_converted(node: Any, given: Any, checked: Any) -> None:
    """Write into `node` what differs in type between its plain values before and after they were checked."""
    for key in given if isinstance(given, dict) else range(len(given)):
        if isinstance(given[key], dict | list):
            _replace_converted(node._get_node(key), given[key], checked[key])
        elif type(given[key]) is not type(checked[key]):
            node[key] = checked[key]


def _check_evaluation(config: DictConfig) -> None:
    """Refuse values that only `symrob evaluate` has.

    Raises:
        UserError: an unknown split, shards of no image, or nothing to evaluate.
    """
    if config.split not in _SPLITS:
        raise UserError(f"split must be train, validation or test, got {config.split!r}; test is the default")
    if not config.robustness:
        raise UserError("robustness=none leaves nothing to evaluate; choose robustness=quick, paper or strong")
    if config.shard_size is not None and config.shard_size < 1:
        raise UserError(
            f"shard_size must be at least 1 image, got {config.shard_size}; leave it out for a suitable one"
        )


def _require_one_subject(config: DictConfig) -> None:
    """Check that an evaluation is of one checkpoint or of one network, and that the latter is described in full.

    Raises:
        UserError: it is of both or neither, or a setting is missing or belongs to the other.
    """
    given = [name for name in _OF_NETWORKS if config[name] not in ("", None, 0)]
    if config.network and not isinstance(config.network, DictConfig):
        raise UserError(
            f"network={config.network} is no network; give its class, as in network._target_=my_resnet.ResNet18"
        )
    if not config.network:
        if not config.checkpoint:
            raise UserError(
                "neither checkpoint nor network is set; give checkpoint=RUN/checkpoints/last.ckpt, or a network of "
                "yours by network._target_=… weights=… name=… data=…"
            )
        if given:
            raise UserError(f"{given[0]}={config[given[0]]} belongs to a network of yours; add network._target_=…")
        return
    if config.checkpoint:
        raise UserError(f"network and checkpoint={config.checkpoint} both say what to evaluate; give one of them")
    needed = {
        "network._target_": ("_target_" in config.network, "the class by its full path, as in my_resnet.ResNet18"),
        "weights": (config.weights, "the file of its state dict, as in model.pt"),
        "name": (config.name, "the network's name in reports, as in resnet18"),
        "data": (config.data and "_target_" in config.data, "the data set it is for, as in cifar10"),
    }
    for name, (found, remedy) in needed.items():
        if not found:
            raise UserError(f"{name} is not set; give {remedy}")
    if not 0 <= config.training_seed < 2**32:
        raise UserError(f"training_seed must lie in 0 … 2^32 - 1, got {config.training_seed}; 0 is the default")


def _network_name(choices: typing.Mapping[str, Any]) -> str:
    """The model's name, and its parts that are not the usual ones."""
    return "_".join([str(choices["model"]), *_unusual_parts(choices)])


def _unusual_parts(choices: typing.Mapping[str, Any]) -> list[str]:
    """The scale branch unless it is the paper's, and the trunk unless it is the model's own."""
    return [name for part, usual in _USUAL_PARTS.items() if (name := str(choices.get(part, usual))) != usual]


def _take_title(model: Any, choices: typing.Mapping[str, Any]) -> str:
    """Take titles, which are no setting of the network, out of its configuration; the chosen one's, or nothing.

    Titles stand below the name of their file, so that no network goes by the title of the one it is derived from.

    Raises:
        UserError: a title stands alone.
    """
    if not isinstance(model, DictConfig) or model._is_none():
        return ""
    with open_dict(model):
        titles = model.pop("title", None) or {}
    if not isinstance(titles, typing.Mapping):
        chosen = choices["model"]
        raise UserError(
            f"model.title={titles} must stand below the name of its file, as in title: {{{chosen}: {titles}}}; "
            "on the command line write title=…"
        )
    title = str(titles.get(choices["model"], ""))
    parts = [str(titles.get(part, part.replace("_", " "))) for part in _unusual_parts(choices)]
    return ", ".join([title, *parts]) if title else ""


def _targets(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `_target_` below `node`, with the path of its keys."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from _targets(child, f"{path}.{key}".removeprefix("."))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _targets(child, f"{path}[{index}]")


def _check_target(path: str, node: dict[str, Any]) -> None:
    """Validate a node's names and values against the signature of its class or function, and convert its numbers."""
    target = _locate(path, str(node["_target_"]))
    try:  # Hydra refuses some classes; nothing is called here
        instantiate({"_target_": node["_target_"], "_partial_": True})
    except InstantiationException as error:
        reason = one_line(error).partition(". ")[0].partition(" full_key:")[0]
        raise UserError(f"{path}._target_: {reason}; choose another class") from error
    parameters = inspect.signature(target).parameters
    settings = {name: value for name, value in node.items() if name not in _RESERVED}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = next((name for name in settings if name not in parameters and not open_ended), None)
    if unknown is not None:
        near = get_close_matches(unknown, parameters, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(parameters) or 'no settings'}"
        raise UserError(f"{path}.{unknown}: {target.__qualname__} has no such setting; {known}")
    for parameter in parameters.values() if not node.get("_partial_") and "_args_" not in node else ():
        optional = parameter.default is not parameter.empty or parameter.kind in _VARIADIC
        if not optional and parameter.name not in settings:
            raise UserError(f"{path}.{parameter.name} is not set; {target.__qualname__} needs it")
    hints = _type_hints(target)
    for name, value in settings.items():
        if name in hints and not any(_targets(value, "")):
            node[name] = _converted(value, _check_value(f"{path}.{name}", value, hints[name]))


def _locate(path: str, name: str) -> Any:
    """The class or function of a `_target_`, whose module is imported.

    Raises:
        UserError: there is no such module, it cannot be imported, or it holds no such name.
    """
    module, _, attribute = name.rpartition(".")
    try:
        target, holder = locate(name), locate(module) if module else None
    except ErrorDuringImport as error:
        reason = one_line(error.value) if isinstance(error.value, BaseException) else str(error.value)
        absent = error.value.name if isinstance(error.value, ModuleNotFoundError) else None
        remedy = f"install {absent}" if absent else "repair its module"
        raise UserError(f"{path}._target_: {name!r} cannot be imported ({reason}); {remedy}") from error
    if callable(target):
        return target
    where = "give a class by its full path, and for a module of your own its folder in PYTHONPATH"
    if holder is not None:
        near = get_close_matches(attribute, [key for key, value in vars(holder).items() if callable(value)], n=1)
        where = f"did you mean {module}.{near[0]}?" if near else f"{module} has no {attribute}, give another class"
    raise UserError(f"{path}._target_: nothing callable is found at {name!r}; {where}")


def _type_hints(target: Any) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
        return {name: hint.type if isinstance(hint, InitVar) else hint for name, hint in hints.items()}
    except (NameError, TypeError):  # a foreign class whose annotations cannot be resolved
        return {}


def _check_value(path: str, value: Any, hint: Any) -> Any:
    """The value as its annotation says; the value itself where pydantic does not know the annotation.

    Raises:
        UserError: the annotation does not allow the value.
    """
    for config in (ConfigDict(arbitrary_types_allowed=True), None):  # a dataclass has its own, and refuses a second one
        with contextlib.suppress(
            PydanticUserError, SchemaError
        ):  # if both are refused, pydantic does not know the type
            try:
                return TypeAdapter(hint, config=config).validate_python(value)
            except ValidationError as error:
                first = error.errors()[0]
                kind = first["type"] in _NO_LIST or first.get("ctx", {}).get("class") == "Sequence"
                remedy = f"; give a list, as in {path}=[{value}]" if kind and not first["loc"] else ""
                raise UserError(f"{path} = {value!r}: {first['msg']}{remedy}") from error
    return value


def _converted(value: Any, checked: Any) -> Any:
    """The plain value with the numbers and truth values in it that were converted from text or from a float."""
    if isinstance(value, dict) and isinstance(checked, typing.Mapping) and value.keys() == checked.keys():
        return {key: _converted(child, checked[key]) for key, child in value.items()}
    if isinstance(value, list) and isinstance(checked, list | tuple) and len(value) == len(checked):
        return [_converted(*pair) for pair in zip(value, checked, strict=True)]
    return checked if isinstance(value, str | float) and isinstance(checked, int | float) else value
