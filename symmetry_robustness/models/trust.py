"""Trust in configurations that come with a file: plain values, and classes of trusted packages only."""

import importlib.util
from collections.abc import Mapping, Sequence

from symmetry_robustness.errors import UserError

_ORDERS = ("_convert_", "_recursive_", "_partial_")  # Hydra's own keys that call nothing


def require_trusted(
    node: object, name: str, packages: Sequence[str], trusted: Sequence[str] = (), base: type = object
) -> None:
    """Check that building a node of a configuration runs nothing that the file it came with could choose.

    Args:
        node: plain container, not yet instantiated.
        name: of the node, for messages; "model".
        packages: modules of this project, whose classes the node may name.
        trusted: packages and modules of the caller's own, whose classes it may name as well; this imports them.
        base: class of which all that it names must be subclasses.

    Raises:
        UserError: the node names another class or a function, holds an interpolation or is not plain; or a module of
            `trusted` is not found.
    """
    if isinstance(trusted, str):
        raise UserError(f"trusted must be a list of modules, got {trusted!r}; write [{trusted!r}]")
    if isinstance(node, Mapping) and "_partial_" in node:
        raise UserError(f"{name} of the file is only a part of one ('_partial_'); do not trust the file")
    _require_trusted(node, name, tuple(f"{module}." for module in (*packages, *trusted)), base)
    for module in trusted:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UserError(
                f"trusted=[{module}] names no module that Python finds; give a module, not a class, as in [gabor], "
                "and its folder in PYTHONPATH"
            )


def _require_trusted(node: object, name: str, prefixes: tuple[str, ...], base: type) -> None:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                _require_class(value, name, prefixes, base)
            elif not isinstance(key, str) or (key.startswith("_") and key not in _ORDERS):
                raise UserError(f"{name} of the file has the key {key!r}; do not trust the file")
            else:
                _require_trusted(value, f"{name}.{key}", prefixes, base)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _require_trusted(value, f"{name}[{index}]", prefixes, base)
    elif isinstance(node, str):
        if "${" in node:  # an interpolation can read files and the environment
            raise UserError(f"{name} of the file holds {node!r}, which is not resolved; do not trust the file")
    elif not isinstance(node, bool | int | float | None):
        raise UserError(f"{name} of the file holds a {type(node).__name__}; do not trust the file")


def _require_class(target: object, name: str, prefixes: tuple[str, ...], base: type) -> None:
    """Check that a `_target_` lies in, and is defined in, a module of the prefixes; no other module is imported."""
    module, _, attribute = str(target).rpartition(".")
    if f"{module}.".startswith(prefixes):
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except (ModuleNotFoundError, ValueError) as error:
            raise UserError(
                f"{name}._target_ asks for {target!r}, whose module is not found ({error}); do not trust the file, or "
                "add the module's folder to PYTHONPATH if it is yours"
            ) from error
        if isinstance(found, type) and issubclass(found, base) and f"{found.__module__}.".startswith(prefixes):
            return
    raise UserError(
        f"{name}._target_ asks for {target!r}, which is no class of {' or '.join(name[:-1] for name in prefixes)}; "
        "do not trust the file, unless that module is yours: then add it to trusted=[…]"
    )
