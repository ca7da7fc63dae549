"""What decides which block to evict when room is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from vramx import _core
from vramx.errors import ConfigError

_METHODS = ("fetched", "leased", "evicted", "victim")


class Policy(Protocol):
    """A policy written in Python; blocks are numbers.

    Called from any thread, one call at a time.
    """

    def fetched(self, block: int, /) -> None:
        """Note that a block is being fetched."""

    def leased(self, block: int, /) -> None:
        """Note that a lease takes a block that is on the card."""

    def evicted(self, block: int, /) -> None:
        """Note that a block is being evicted."""

    def victim(self, evictable: Callable[[int], bool], /) -> int | None:
        """Choose a block to evict, for which `evictable` is true; None where there is none."""


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
