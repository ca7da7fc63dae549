"""Frozen settings that can be written as JSON and read again."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from vramx.errors import ConfigError

S = TypeVar("S", bound="Settings")

#: What values of a type are, in words.
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    Fraction: "a fraction",
}


@dataclass(frozen=True)
class Settings:
    """The base of frozen dataclasses whose fields are checked when they are made.

    Fields may be text, numbers, paths, fractions, tuples, mappings of text, and other settings.

    Raises
    ------
    ConfigError
        If a field is not of its declared type.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, _as(hint, value))
            except TypeError:
                raise ConfigError(f"{name} {value!r} is not {_words(hint)}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `from_dict` reverses this."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_dict(cls: type[S], content: Mapping[str, Any]) -> S:
        """Make settings from what `to_dict` returned.

        Parameters
        ----------
        content : mapping of str to object
            Fields by name; those that have a default may be left out.

        Returns
        -------
        Settings
            Of this class.

        Raises
        ------
        ConfigError
            If a field is unknown, missing or not allowed; the message names it.
        """
        if not isinstance(content, Mapping):
            raise ConfigError(f"{content!r} is not a mapping of {cls.__name__}'s fields")
        known = {each.name: each for each in fields(cls)}
        if unknown := [name for name in content if name not in known]:
            raise ConfigError(
                f"{cls.__name__} has no {', '.join(map(str, unknown))}; it has {', '.join(known)}"
            )
        missing = [
            name
            for name, each in known.items()
            if name not in content and each.default is each.default_factory is MISSING
        ]
        if missing:
            raise ConfigError(f"{cls.__name__} lacks {', '.join(missing)}")
        return cls(**{name: _read(cls, name, value) for name, value in content.items()})


def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return what may stand in a field: the members of a union, or the one type."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _as(hint: Any, value: Any) -> Any:
    """Return a value as a field holds it: paths of text, tuples of lists.

    Raises
    ------
    TypeError
        If the field cannot hold it.
    """
    for kind in _kinds(hint):
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin is tuple and isinstance(value, (list, tuple)):
            each = args[:1] * len(value) if args[-1] is Ellipsis else args
            if len(each) != len(value):
                raise TypeError
            return tuple(map(_as, each, value))
        if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
            return {_as(args[0], name): _as(args[1], each) for name, each in value.items()}
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is float and type(value) is int:
            return float(value)
        is_flag = isinstance(value, bool)
        if origin is None and isinstance(value, kind) and (not is_flag or kind is bool):
            return value
    raise TypeError


def _words(hint: Any) -> str:
    """Say what a field holds."""
    return " or ".join(map(_word, _kinds(hint)))


def _word(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        inside = args[:1] if args[-1] is Ellipsis else args
        return f"a list, each {' and '.join(map(_words, inside))}"
    if origin is not None:
        return f"a mapping of {_words(args[0])} to {_words(args[1])}"
    return "none" if kind is types.NoneType else _WORDS.get(kind, kind.__name__)


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, (Path, Fraction)):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _read(cls: type[Settings], name: str, value: Any) -> Any:
    """Return what a field is made of; settings in it from their mapping."""
    for kind in _kinds(_hints(cls)[name]):
        is_settings = isinstance(kind, type) and issubclass(kind, Settings)
        if is_settings and isinstance(value, Mapping):
            try:
                return kind.from_dict(value)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
    return value
