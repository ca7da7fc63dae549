"""What becomes of files: bits flip, ends are lost, parts are swapped, doubled and mixed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

#: Bytes that readers take for sizes, offsets and ends.
_TELLING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")


def damaged(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one of some files after up to four accidents."""
    content = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        chance.choice(_ACCIDENTS)(content, seeds, chance)
    return bytes(content)


def _place(content: bytearray, chance: random.Random) -> int:
    """Choose a place, more often near the beginning, where headers are."""
    end = len(content) if chance.random() < 0.5 else min(len(content), 128)
    return chance.randrange(end) if end else 0


def _part(content: bytearray, chance: random.Random) -> slice:
    first = _place(content, chance)
    return slice(first, first + chance.choice((1, 2, 4, 16, 256, 4096)))


def _flip(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        if content:
            content[_place(content, chance)] ^= 1 << chance.randrange(8)


def _cut(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    del content[_place(content, chance) :]


def _lose(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    del content[_part(content, chance)]


def _put(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    telling, place = chance.choice(_TELLING), _place(content, chance)
    content[place : place + len(telling)] = telling


def _double(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    place = _place(content, chance)
    content[place:place] = content[_part(content, chance)]


def _swap(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    a, b = sorted((_place(content, chance), _place(content, chance)))
    size = chance.randint(1, 64)
    if a + size <= b:
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


def _mix(content: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(seeds)
    content[_place(content, chance) :] = other[_place(bytearray(other), chance) :]


_ACCIDENTS: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip, _flip, _put, _put, _cut, _lose, _double, _swap, _mix,
)  # fmt: skip
