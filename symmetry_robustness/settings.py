"""Settings of a class, checked by its annotations where an object is made."""

import functools
import inspect
import typing
from collections import abc
from dataclasses import InitVar
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar

from symmetry_robustness.errors import UserError

C = TypeVar("C", bound=type)
_KINDS: Final = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}
_LISTS: Final = (abc.Sequence, list, tuple)
_NO_LISTS: Final = (str, bytes, abc.Set, abc.Mapping)


def checked(cls: C) -> C:
    """Let a dataclass refuse settings of another type than it declares: numbers, truth values, strings, lists of them.

    Numbers become Python's own: those of numpy, and whole ones such as 1e4 for an integer. A setting of any other type
    is left to the class.

    Examples:
        >>> from dataclasses import dataclass
        >>> @checked
        ... @dataclass(frozen=True)
        ... class Attack:
        ...     steps: int = 40
        >>> Attack(1e3)
        Attack(steps=1000)
        >>> Attack("ten")
        Traceback (most recent call last):
        symmetry_robustness.errors.UserError: steps must be a whole number, got 'ten'; the default of Attack is 40
    """
    build = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(build)

    @functools.cache
    def hints() -> dict[str, Any]:
        return typing.get_type_hints(build)

    @functools.wraps(build)
    def init(self: Any, *args: Any, **settings: Any) -> None:
        try:
            given = signature.bind(self, *args, **settings)
        except TypeError:
            build(self, *args, **settings)  # which names the class in its own message
            raise
        for name, value in [*given.arguments.items()][1:]:
            hint, default = hints().get(name, Any), signature.parameters[name].default
            taken = _taken(value, hint.type if isinstance(hint, InitVar) else hint)
            if taken is NotImplemented:
                stated = type(default) in (int, float, bool, str, tuple)
                remedy = f"the default of {cls.__name__} is {default!r}" if stated else f"give {cls.__name__} one"
                raise UserError(f"{name} must be {_kind(hint)}, got {value!r:.80}; {remedy}")
            given.arguments[name] = taken
        build(*given.args, **given.kwargs)

    cls.__init__ = init  # type: ignore[misc]
    return cls


def _taken(value: Any, hint: Any) -> Any:
    """The value as a setting of a type; NotImplemented where it is none."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value if isinstance(value, tuple({type(part) for part in parts})) else NotImplemented
    if origin in (typing.Union, UnionType):
        return next((taken for part in parts if (taken := _taken(value, part)) is not NotImplemented), NotImplemented)
    if origin in _LISTS and len({*parts} - {...}) == 1:
        if isinstance(value, _NO_LISTS) or getattr(value, "shape", None) == () or not hasattr(value, "__len__"):
            return NotImplemented
        items = [_taken(item, parts[0]) for item in value]
        same = all(item is other for item, other in zip(items, value, strict=True))
        refused = any(item is NotImplemented for item in items)
        return NotImplemented if refused else value if same else tuple(items)
    if hint not in _KINDS:
        return value
    if getattr(value, "shape", None) == ():  # of numpy or torch
        value = value.item()
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    fits = isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))
    return value if fits else NotImplemented


def _kind(hint: Any) -> str:
    """The kind of values that a type has, in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, InitVar):
        return _kind(hint.type)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (typing.Union, UnionType):
        return " or ".join(map(_kind, parts))
    return f"a list, each {_kind(parts[0])}" if origin in _LISTS else _KINDS.get(hint, "an object")
