"""The simulated card: a device made of host memory with a virtual clock, for use without a GPU."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from vramx import _core
from vramx.errors import ConfigError
from vramx.units import Size, parse_rate, parse_size

_stack: list[Simulation] = []


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """A configuration of the simulated device, in force until another replaces it.

    As a context manager it is in force until the scope is left. Made by `simulate`.
    """

    capacity: int
    link_up: float
    link_down: float
    latency: float
    lanes: int
    granule: int
    host_memory: int
    reads_over_link: bool
    host_addresses: bool
    managed_access: bool
    unpack_rate: float

    def device(self, *, check_drops: bool = False, keeps_raw: bool = True) -> _core.SimulatedDevice:
        """Make a card.

        Parameters
        ----------
        check_drops : bool
            Whether a drop compares both copies and raises `UnreportedWriteError`.
        keeps_raw : bool
            Whether raw host copies of weights stay beside packed ones.

        Returns
        -------
        _core.SimulatedDevice
            A new card with nothing on it.
        """
        return _core.SimulatedDevice(**vars(self), check_drops=check_drops, keeps_raw=keeps_raw)

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self in _stack:
            _stack.remove(self)


def simulate(
    capacity: Size = "8GiB",
    link: Size = "25GB/s",
    *,
    link_to_host: Size | None = None,
    latency: float = 10e-6,
    lanes: int = 2,
    granule: Size = "64KiB",
    host_memory: Size | None = None,
    reads_over_link: bool = True,
    memory: Literal["mapped", "managed"] = "mapped",
    managed_access: bool = True,
    unpack_rate: Size | None = None,
) -> Simulation:
    """Configure the simulated device for the sessions opened from now on.

    Parameters
    ----------
    capacity : int, float or str
        The card's memory, in bytes or text.
    link, link_to_host : int, float or str
        Bytes a second to the card, and back; the second equals the first by default.
    latency : float
        Seconds that a request costs its lane before bytes flow.
    lanes : int
        Copy queues.
    granule : int, float or str
        The unit of placement; blocks are multiples of it.
    host_memory : int, float or str, optional
        The most bytes of host copies; this machine's memory by default.
    reads_over_link : bool
        Whether the card can use host memory in place.
    memory : str
        What weights lie in: ``"mapped"`` memory, whose host copy has an address of its own and is
        used in place outside a lease, or ``"managed"`` memory with one address. What the program
        allocates has one address. A card that does not read over the link has only managed memory.
    managed_access : bool
        Whether it has concurrent managed access. Without it, as under WSL, what the program
        allocates stays on the card, and ``memory="managed"`` is refused.

    Returns
    -------
    Simulation
        The configuration; also a context manager that ends it.

    Raises
    ------
    ConfigError
        If a figure is not allowed.
    """
    if not isinstance(lanes, int) or not 1 <= lanes <= 64:
        raise ConfigError(f"lanes {lanes!r} is not a whole number from 1 to 64")
    if not isinstance(latency, (int, float)) or not 0 <= latency < math.inf:
        raise ConfigError(f"latency {latency!r} is not a time of zero or more seconds")
    if memory not in ("mapped", "managed"):
        raise ConfigError(f"memory {memory!r} is neither 'mapped' nor 'managed'")
    if memory == "managed" and not managed_access:
        raise ConfigError(
            "memory='managed' takes a card with concurrent managed access; leave out one of memory "
            "and managed_access"
        )
    link_up = parse_rate(link, "link")
    simulation = Simulation(
        capacity=parse_size(capacity, "capacity"),
        link_up=link_up,
        link_down=link_up if link_to_host is None else parse_rate(link_to_host, "link_to_host"),
        latency=latency,
        lanes=lanes,
        granule=parse_size(granule, "granule"),
        host_memory=(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if host_memory is None
            else parse_size(host_memory, "host_memory")
        ),
        reads_over_link=reads_over_link,
        host_addresses=memory == "mapped",
        managed_access=managed_access,
        unpack_rate=0.0 if unpack_rate in (None, 0) else parse_rate(unpack_rate, "unpack_rate"),
    )
    _stack.append(simulation)
    return simulation


def current_simulation() -> Simulation:
    """Return the configuration in force.

    Returns
    -------
    Simulation
        The last one made by `simulate` that has not ended, else the default.
    """
    return _stack[-1] if _stack else simulate()
