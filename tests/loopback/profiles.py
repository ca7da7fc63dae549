"""Cards as their drivers describe them, by name."""

from __future__ import annotations

from dataclasses import dataclass

from loopback.control import Loopback


@dataclass(frozen=True)
class Profile:
    """What a driver says of a card. What is not known of one is what leaves vramx the least.

    Attributes
    ----------
    capacity : int
        The card's memory.
    managed_memory : bool
        Whether it has unified memory.
    concurrent_access : bool
        Whether host and card may use that at the same time.
    maps_memory : bool
        Whether it has virtual memory management.
    uses_registered : bool
        Whether it uses pinned host memory at the host's own addresses.
    """

    capacity: int
    managed_memory: bool = True
    concurrent_access: bool = True
    maps_memory: bool = True
    uses_registered: bool = True

    def describe(self, driver: Loopback, name: str) -> None:
        """Have the stand-in driver say so."""
        driver.set_name(name)
        driver.set_capacity(self.capacity)
        driver.set_managed_memory(self.managed_memory)
        driver.set_concurrent_access(self.concurrent_access)
        driver.set_maps_memory(self.maps_memory)
        driver.set_uses_registered(self.uses_registered)


PROFILES = {
    "RTX 3060 under WSL2": Profile(12 * 2**30, concurrent_access=False, uses_registered=False),
    "vGPU": Profile(8 * 2**30, managed_memory=False, concurrent_access=False),
    "GTX 980": Profile(4 * 2**30, concurrent_access=False),  # before Pascal
    "GTX 1080 Ti": Profile(11 * 2**30),
}
#: Those whose activations stay on the card.
CONFINED = [name for name, each in PROFILES.items() if not each.concurrent_access]
