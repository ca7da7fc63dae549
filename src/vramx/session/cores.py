"""Opening what a session is over: its card, and the core that keeps the budget on it."""

from __future__ import annotations

from vramx import _core
from vramx.cards.opening import card_ordinal, free_bytes, open_card
from vramx.config import Config
from vramx.errors import ConfigError
from vramx.session.options import SessionOptions
from vramx.session.policy import Policy
from vramx.units import format_size


def _keeps_raw(options: SessionOptions, config: Config) -> bool:
    """Tell whether the host is to have raw copies of what is packed."""
    return (options.host or config.host) != "packed"


def compress_of(options: SessionOptions, config: Config) -> str:
    """Tell when weights get packed copies: always, where the host is to have no raw ones.

    Raises
    ------
    ConfigError
        If they never do, though the host is to have no raw ones.
    """
    compress = options.compress or config.compress
    if _keeps_raw(options, config):
        return compress
    if compress == "never":
        raise ConfigError(
            'host="packed" keeps packed copies of weights alone, and compress="never" makes none: '
            'leave out one of them (or VRAMX_HOST and VRAMX_COMPRESS), or give host="raw+packed"'
        )
    return "always"


def open_device(options: SessionOptions, config: Config) -> _core.Device:
    """Open the card that is asked for."""
    return open_card(
        options.backend,
        card_ordinal(options.device),
        options.block_bytes,
        config,
        accept_unpinned=options.on_unpinned == "warn",
        keeps_raw=_keeps_raw(options, config),
    )


def open_core(
    device: _core.Device, options: SessionOptions, config: Config, policy: Policy | None
) -> _core.Core:
    """Open a core on a card; without a budget, in what is free there less the reserve."""
    budget, block = options.budget_bytes, options.block_bytes
    if budget is None:
        budget = free_bytes(device) - options.reserve_bytes
        if budget < block:
            free = max(budget + options.reserve_bytes, 0)
            raise ConfigError(
                f"{device.name} has {format_size(free)} free, less than the reserve of "
                f"{format_size(options.reserve_bytes)} and one block of {format_size(block)}: "
                "free some, or pass budget, reserve or block"
            )
        budget -= budget % block
    return _core.Core(
        device=device,
        budget=budget,
        block=block,
        policy=options.policy if policy is None else policy,
        threaded=device.slow_moves,
        host_limit=options.host_limit_bytes,
        profiled=config.profiled,
    )
