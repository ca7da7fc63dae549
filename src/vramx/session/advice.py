"""Advice on how memory is kept, named as CUDA names it."""

from __future__ import annotations

import enum

from vramx import _core
from vramx.errors import ConfigError


class Advice(enum.Enum):
    """What `Session.advise` takes. CUDA's terms, kept by vramx's own manager on every backend.

    ``READ_MOSTLY``
        Read far more often than written: the host copy stays valid while the card has one too, and
        an eviction copies nothing. Managed parameters start like this, and in mapped memory they
        stay like this.
    ``PREFERRED_DEVICE``
        Evicted only when nothing else can be.
    ``PREFERRED_HOST``
        Evicted now, and used over the link from then on.
    ``ACCESSED_BY``
        While on the host it is mapped for the card.
    ``UNSET_…``
        Takes the advice back.
    """

    READ_MOSTLY = "read_mostly"
    UNSET_READ_MOSTLY = "unset_read_mostly"
    PREFERRED_DEVICE = "preferred_device"
    UNSET_PREFERRED_DEVICE = "unset_preferred_device"
    PREFERRED_HOST = "preferred_host"
    UNSET_PREFERRED_HOST = "unset_preferred_host"
    ACCESSED_BY = "accessed_by"
    UNSET_ACCESSED_BY = "unset_accessed_by"


_NATIVE = {
    Advice.READ_MOSTLY: _core.Advice.READ_MOSTLY,
    Advice.UNSET_READ_MOSTLY: _core.Advice.UNSET_READ_MOSTLY,
    Advice.PREFERRED_DEVICE: _core.Advice.PREFERRED_DEVICE,
    Advice.UNSET_PREFERRED_DEVICE: _core.Advice.UNSET_PREFERRED,
    Advice.PREFERRED_HOST: _core.Advice.PREFERRED_HOST,
    Advice.UNSET_PREFERRED_HOST: _core.Advice.UNSET_PREFERRED,
    Advice.ACCESSED_BY: _core.Advice.ACCESSED_BY,
    Advice.UNSET_ACCESSED_BY: _core.Advice.UNSET_ACCESSED_BY,
}


def native_advice(advice: Advice) -> _core.Advice:
    """Translate for the core.

    Parameters
    ----------
    advice : Advice
        The advice.

    Returns
    -------
    _core.Advice
        Its native counterpart.

    Raises
    ------
    ConfigError
        If it is not an `Advice`.
    """
    if not isinstance(advice, Advice):
        names = ", ".join(f"Advice.{each.name}" for each in Advice)
        raise ConfigError(f"unknown advice {advice!r}; give one of {names}")
    return _NATIVE[advice]
