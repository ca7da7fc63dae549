"""Who decides which block leaves when room is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from vramx import _core
from vramx.errors import ConfigError

_METHODS = ("arrived", "touched", "left", "victim")


class Policy(Protocol):
    """A policy written in Python; blocks are numbers.

    Called from any thread, one call at a time.
    """

    def arrived(self, block: int, /) -> None:
        """Hear that a block is coming to the card."""

    def touched(self, block: int, /) -> None:
        """Hear that a block on the card is used."""

    def left(self, block: int, /) -> None:
        """Hear that a block is leaving the card."""

    def victim(self, may_leave: Callable[[int], bool], /) -> int | None:
        """Choose a block on the card for which `may_leave` holds; None where there is none."""


P = TypeVar("P", bound="str | Policy")


def checked_policy(policy: P) -> P:
    """Check a policy before a session is opened with it.

    Parameters
    ----------
    policy : str or Policy
        The name of a native one, or an object.

    Returns
    -------
    str or Policy
        The same.

    Raises
    ------
    ConfigError
        If there is no policy of that name, or the object lacks a method.
    """
    known = ", ".join(_core.policy_names())
    allowed = f"give one of {known}, or an object with the methods {', '.join(_METHODS[:-1])}"
    allowed += f" and {_METHODS[-1]}"
    if isinstance(policy, str):
        if policy not in _core.policy_names():
            raise ConfigError(f"unknown policy {policy!r}; {allowed}")
        return policy
    lacking = [name for name in _METHODS if not callable(getattr(policy, name, None))]
    if lacking:
        raise ConfigError(f"policy {policy!r} has no {', '.join(lacking)}; {allowed}")
    return policy
