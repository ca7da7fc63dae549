"""Opening a card."""

from __future__ import annotations

import warnings
from typing import Any

from vramx import _core
from vramx.cards.nvml import card_memory, pinned_rate
from vramx.cards.pcie import moving_rates
from vramx.cards.simulation import current_simulation
from vramx.config import Config
from vramx.errors import ConfigError, NoDeviceError
from vramx.units import format_size

BACKENDS = ("auto", "managed", "mapped", "simulated")

_NEEDS_MAPPED = (
    'host="packed" takes backend="mapped": managed memory has no packed copies. Leave out backend, '
    'or give host="raw+packed"'
)


def card_ordinal(device: Any) -> int:
    """Return a card's CUDA number.

    Parameters
    ----------
    device : int, str, torch.device or None
        The card; the first by default.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ConfigError
        If it is not a card.
    """
    if device is None:
        return 0
    kind, _, index = str(device).partition(":")
    if isinstance(device, int) and not isinstance(device, bool):
        kind, index = "cuda", str(device)
    if kind == "cuda" and (not index or (index.isdecimal() and len(index) < 6)):
        return int(index or 0)
    raise ConfigError(f'device {device!r} is not a card: give a number from 0, or text as "cuda:0"')


def open_card(
    backend: str,
    ordinal: int,
    block: int,
    config: Config,
    *,
    accept_unpinned: bool,
    keeps_raw: bool,
) -> _core.Device:
    """Open the device behind a backend.

    Parameters
    ----------
    backend : str
        One of `BACKENDS`; ``"auto"`` is mapped where the card supports that and uses pinned memory
        in place or has no managed memory, else managed, and never simulated.
    ordinal : int
        The card's CUDA number.
    block : int
        Bytes that will be moved at once: what mapped memory is mapped in.
    config : Config
        The process's settings.
    accept_unpinned : bool
        Whether mapped memory may lie in host memory that the system refuses to pin.
    keeps_raw : bool
        Whether raw host copies of weights stay beside packed ones. Else the card is one that packs.

    Returns
    -------
    _core.Device
        The device.

    Raises
    ------
    ConfigError
        If the backend is unknown, if the card cannot map blocks of that size, or if it cannot pack
        and is to.
    NoDeviceError
        If there is no such card, or it cannot do what the backend needs.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; give one of {', '.join(BACKENDS)}")
    if backend == "simulated":
        if ordinal != 0:
            raise ConfigError(f"the simulated card is device 0, not {ordinal}")
        return current_simulation().device(check_drops=config.check, keeps_raw=keeps_raw)
    if backend == "managed" and not keeps_raw:
        raise ConfigError(_NEEDS_MAPPED)
    if config.managed_limit is not None:
        _core.set_managed_limit(config.managed_limit)
    if backend != "managed":
        try:
            mapped = _core.open_mapped(
                driver=config.cuda_driver,
                ordinal=ordinal,
                unit=block,
                accept_unpinned=accept_unpinned,
                deny_managed=config.deny_managed,
                checked=config.check,
                keeps_raw=keeps_raw,
            )
        except NoDeviceError:
            if backend == "mapped" or not keeps_raw:
                raise
        else:
            # In managed memory, what is used outside its module's call does not fail.
            takes_mapped = backend == "mapped" or not keeps_raw
            if takes_mapped or mapped.reads_over_link or not mapped.managed_access:
                return _told_link(mapped, weights="mapped")
    managed = _core.open_managed(
        driver=config.cuda_driver, ordinal=ordinal, deny_managed=config.deny_managed
    )
    return _told_link(managed, weights="managed")


def _told_link(device: _core.CudaDevice, *, weights: str) -> _core.CudaDevice:
    """Set the rates of a device's moves from its card's link, where that is known."""
    rate = pinned_rate(device.uuid)
    if rate is not None:
        if device.managed_access:
            device.set_rates(_core.Purpose.SCRATCH, *moving_rates("managed", rate))
        device.set_rates(_core.Purpose.WEIGHTS, *moving_rates(weights, rate))
    return device


_NOT_IN_PLACE = (
    "does not use host memory in place: what is larger than the budget, or used outside its "
    "module's call, fails"
)


def unpinned(device: _core.Device) -> list[str]:
    """Return which host memory the system refused to pin, and what that costs.

    Parameters
    ----------
    device : _core.Device
        The device.

    Returns
    -------
    list of str
        A sentence for each kind of memory that was used instead; empty if all was pinned.
    """
    if not device.pageable_bytes:
        return []
    return [
        f"{format_size(device.pageable_bytes)} of host memory could not be pinned and is pageable: "
        "copies of it were measured at 10 GB/s to the card and 19 GB/s back, where pinned memory "
        f"has 55 (H200, PCIe 5), and the card {_NOT_IN_PLACE}"
    ]


def confined(device: _core.Device) -> list[str]:
    """Return what this card cannot do that others can, and what that costs.

    Parameters
    ----------
    device : _core.Device
        The device.

    Returns
    -------
    list of str
        A sentence for each thing.
    """
    told = []
    if not device.managed_access:
        told.append(
            "this card has no concurrent managed access: activations stay on it, within the "
            "budget, and only the weights of managed modules may exceed it"
        )
    if not device.keeps_raw:
        told.append(
            f"{format_size(device.given_back_bytes)} of weights have packed copies alone on the "
            "host, which are not used in place: what is larger than the budget, or used outside "
            "its module's call and the session's scope, fails"
        )
    elif not device.reads_over_link:
        told.append(f"this card {_NOT_IN_PLACE}")
    return told


def slowed(device: _core.Device) -> list[str]:
    """Return what the driver refused since the device was opened, so that moves cost more.

    Parameters
    ----------
    device : _core.Device
        The device.

    Returns
    -------
    list of str
        A sentence for each thing refused.
    """
    if not device.holds_up_launches:
        return []
    return [
        "launches wait while managed memory moves, since the driver gave no CUDA context for moves "
        f"({device.holds_up_launches}): free some of the card's memory and open the session again"
    ]


def free_bytes(device: _core.Device) -> int:
    """Return what is free on a card.

    Parameters
    ----------
    device : _core.Device
        The device.

    Returns
    -------
    int
        Bytes, by NVML; with a warning by the driver where NVML cannot tell.
    """
    if not device.uuid:
        return device.free_bytes
    try:
        return card_memory(device.uuid).free
    except Exception as error:  # NVML's errors exist only where it is installed
        warnings.warn(
            f"NVML cannot tell what is free on {device.name} ({error}); asking the driver",
            RuntimeWarning,
            stacklevel=4,
        )
        return device.free_bytes
