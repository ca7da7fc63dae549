"""The stand-in driver as Python tests see it; loopback.h says what each control does."""

from __future__ import annotations

import ctypes
from pathlib import Path

# Results of the driver's calls, as cuda.h numbers them.
OUT_OF_MEMORY = 2
NOT_PERMITTED = 800
NOT_SUPPORTED = 801
UNKNOWN = 999


class Counts(ctypes.Structure):
    """LoopbackCounts of loopback.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "on_card",
            "peak_on_card",
            "to_card",
            "to_host",
            "pageable",
            "faulted",
            "over_link",
            "managed",
            "mapped",
            "card_memory",
            "registered",
            "reserved",
            "live_events",
            "live_streams",
            "live_contexts",
            "live_modules",
        )
    ]


class Loopback:
    """One instance of the stand-in driver: its path for vramx, and its controls for the test."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)
        self._library.loopback_calls.restype = ctypes.c_uint64

    @property
    def counts(self) -> Counts:
        counts = Counts()
        self._library.loopback_counts(ctypes.byref(counts))
        return counts

    @property
    def holds(self) -> dict[str, int]:
        """What is allocated and not given back."""
        counts = self.counts
        flows = ("peak_on_card", "to_card", "to_host", "pageable", "faulted", "over_link")
        names = [name for name, _ in Counts._fields_ if name not in flows]
        return {name: value for name in names if (value := getattr(counts, name))}

    def calls(self, entry: str) -> int:
        return self._library.loopback_calls(entry.encode())

    def fail(self, entry: str, result: int = UNKNOWN, nth: int = 1) -> None:
        self._library.loopback_fail(entry.encode(), ctypes.c_uint64(nth), result)

    def set_name(self, name: str) -> None:
        self._library.loopback_set_name(name.encode())

    def set_version(self, version: int) -> None:
        self._library.loopback_set_version(version)

    def set_cards(self, count: int) -> None:
        self._library.loopback_set_cards(count)

    def set_concurrent_access(self, value: int) -> None:
        self._library.loopback_set_concurrent_access(value)

    def set_managed_memory(self, value: int) -> None:
        self._library.loopback_set_managed_memory(value)

    def set_maps_memory(self, value: int) -> None:
        self._library.loopback_set_maps_memory(value)

    def set_uses_registered(self, value: int) -> None:
        self._library.loopback_set_uses_registered(value)

    def set_capacity(self, size: int) -> None:
        self._library.loopback_set_capacity(ctypes.c_uint64(size))

    def set_pinnable(self, size: int) -> None:
        self._library.loopback_set_pinnable(ctypes.c_uint64(size))

    def set_copies_pageable(self, value: int) -> None:
        self._library.loopback_set_copies_pageable(value)

    def maps(self, address: int) -> bool:
        return bool(self._library.loopback_maps(ctypes.c_size_t(address)))

    def touch(self, address: int, size: int, *, write: bool = False, stream: int = 0) -> None:
        self._library.loopback_touch(
            ctypes.c_size_t(stream), ctypes.c_size_t(address), ctypes.c_uint64(size), int(write)
        )
