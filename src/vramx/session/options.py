"""How a session is opened, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from vramx.cards.opening import BACKENDS, card_ordinal
from vramx.config import COMPRESS, HOST
from vramx.errors import ConfigError
from vramx.session.policy import checked_policy
from vramx.settings import Settings
from vramx.units import LARGEST, parse_size

ON_MISSING = ("error", "cpu")
ON_UNPINNED = ("warn", "error")


@dataclass(frozen=True)
class SessionOptions(Settings):
    """The arguments of `vramx.oversubscribe`, which explains each.

    Attributes
    ----------
    budget, block, reserve, host_limit : int, float or str
        Sizes, as bytes or text such as ``"8GiB"``.
    device : int or str, optional
        The card.
    backend, policy, on_missing, on_unpinned : str
        By their names.
    compress, host : str, optional
        Likewise.

    Raises
    ------
    ConfigError
        If one of them is not allowed.
    """

    budget: int | float | str | None = None
    device: int | str | None = None
    backend: str = "auto"
    policy: str = "adaptive"
    block: int | float | str = "32MiB"
    reserve: int | float | str = "512MiB"
    host_limit: int | float | str | None = None
    on_missing: str = "error"
    on_unpinned: str = "warn"
    compress: str | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backend", BACKENDS),
            ("on_missing", ON_MISSING),
            ("on_unpinned", ON_UNPINNED),
            *((("compress", COMPRESS),) if self.compress is not None else ()),
            *((("host", HOST),) if self.host is not None else ()),
        ):
            if (given := getattr(self, name)) not in allowed:
                raise ConfigError(f"unknown {name} {given!r}; give one of {', '.join(allowed)}")
        checked_policy(self.policy)
        card_ordinal(self.device)
        super().__post_init__()
        for name in ("budget", "block", "reserve", "host_limit"):
            getattr(self, f"{name}_bytes")  # which refuses what is no size

    @property
    def budget_bytes(self) -> int | None:
        """The most bytes on the card at once; None for what is free."""
        return None if self.budget is None else parse_size(self.budget, "budget")

    @property
    def block_bytes(self) -> int:
        """The unit of residency."""
        return parse_size(self.block, "block")

    @property
    def reserve_bytes(self) -> int:
        """What a budget of None leaves to others."""
        return parse_size(self.reserve, "reserve") if self.reserve != 0 else 0

    @property
    def host_limit_bytes(self) -> int:
        """The most bytes of host memory to manage."""
        return LARGEST if self.host_limit is None else parse_size(self.host_limit, "host_limit")
