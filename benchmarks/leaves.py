"""Offloading leaf by leaf with no library: ways that others are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

ALIGNMENT = 256  # what kernels take for granted of an address


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Find the modules with parameters and no children, in registration order."""
    for each in module.modules():
        if not list(each.children()) and list(each.parameters()):
            yield each


def aligned_bytes(module: nn.Module) -> int:
    """Sum the bytes of a module's parameters, each rounded up to an aligned address."""
    return sum(-(-p.nbytes // ALIGNMENT) * ALIGNMENT for p in module.parameters())


def kept_in(sizes: list[int], room: int, *, strided: bool) -> set[int]:
    """Choose which leaves of these bytes stay: the first that fit, or some evenly among all."""
    kept, due = set[int](), 0.0 if strided else float(room)
    share = min(1.0, room / max(1, sum(sizes))) if strided else 0.0
    for place, nbytes in enumerate(sizes):
        due += nbytes * share
        if nbytes <= due:
            kept.add(place)
            due -= nbytes
        elif not strided:
            break
    return kept


def _keep_what_no_leaf_owns(module: nn.Module, device: torch.device) -> int:
    """Move buffers, and parameters of modules with children, to the device; return their bytes."""
    owned = {id(p) for leaf in leaves(module) for p in leaf.parameters()}
    rest = [t for t in (*module.parameters(), *module.buffers()) if id(t) not in owned]
    for tensor in rest:
        tensor.data = tensor.data.to(device)
    return sum(t.nbytes for t in rest)


class _Slot:
    """Room on the card for any one leaf."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.room = torch.empty(size, dtype=torch.uint8, device=device)
        self.leaf: _Leaf | None = None
        self.arrived: Any = None
        self.used: Any = None

    def take(self, leaf: _Leaf) -> None:
        """Point the leaf's parameters here and copy them, on the current stream."""
        if self.leaf is not None:
            self.leaf.slot = None
        self.leaf, leaf.slot = leaf, self
        start = 0
        for parameter, host in leaf.host.items():
            size = host.numel() * host.element_size()
            place = self.room[start : start + size].view(host.dtype).view(host.shape)
            parameter.data = place.copy_(host, non_blocking=True)
            start += -(-size // ALIGNMENT) * ALIGNMENT


class _Leaf:
    """A module that is streamed, with its pinned copies."""

    def __init__(self, module: nn.Module, *, pin: bool) -> None:
        self.nbytes = aligned_bytes(module)
        self.host = {p: p.data.pin_memory() if pin else p.data.clone() for p in module.parameters()}
        for parameter, host in self.host.items():
            parameter.data = host
        self.slot: _Slot | None = None
        self.next: _Leaf | None = None


class Streaming:
    """Keeps the leaves that `kept_in` chooses; streams the others through two slots.

    One side stream copies; while a leaf computes, the one that followed it last time is brought.
    Fixed slots stand for what is offloaded elsewhere to fresh memory and ``record_stream``: with
    that the host, running ahead, takes more than the budget.
    The module, made on the CPU, is changed in place; the budget counts the slots too. `moved` are
    the bytes brought since the start.
    """

    def __init__(
        self, module: nn.Module, budget: int, device: str = "cuda", *, strided: bool = False
    ) -> None:
        self.moved = 0
        self._device = torch.device(device)
        self._streams = torch.get_device_module(device)
        self._side = self._streams.Stream()
        self._last: _Leaf | None = None
        found = list(leaves(module))
        largest = max(aligned_bytes(leaf) for leaf in found)
        left = budget - 2 * largest - _keep_what_no_leaf_owns(module, self._device)
        if left < 0:
            raise ValueError(f"{budget} bytes are less than two leaves of {largest}")
        kept = kept_in([aligned_bytes(leaf) for leaf in found], left, strided=strided)
        for place in kept:
            found[place].to(self._device)
        self._slots = [_Slot(largest, self._device) for _ in range(2)]
        for place, each in enumerate(found):
            if place in kept:
                continue
            leaf = _Leaf(each, pin=self._device.type == "cuda")
            each.register_forward_pre_hook(lambda *_, leaf=leaf: self._begin(leaf))
            each.register_forward_hook(lambda *_, leaf=leaf: self._end(leaf))
        self._streams.synchronize()

    def _begin(self, leaf: _Leaf) -> None:
        if leaf.slot is None:
            self._bring(leaf, self._slots[0])
        assert leaf.slot is not None
        self._streams.current_stream().wait_event(leaf.slot.arrived)
        if self._last is not None:
            self._last.next = leaf
        self._last = leaf
        if leaf.next is not None and leaf.next.slot is None:
            self._bring(leaf.next, self._slots[leaf.slot is self._slots[0]])

    def _end(self, leaf: _Leaf) -> None:
        assert leaf.slot is not None
        leaf.slot.used = self._streams.current_stream().record_event()

    def _bring(self, leaf: _Leaf, slot: _Slot) -> None:
        with self._streams.stream(self._side):
            if slot.used is not None:
                self._side.wait_event(slot.used)
            slot.take(leaf)
            slot.arrived = self._side.record_event()
        self.moved += leaf.nbytes
