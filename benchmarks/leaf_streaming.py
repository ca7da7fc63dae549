"""Offloading leaf by leaf with no library: a peer to measure, and stock torch on a small card."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

#: What kernels take for granted of an address.
ALIGNMENT = 256


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Find the modules with parameters and no children, in registration order."""
    for each in module.modules():
        if not list(each.children()) and list(each.parameters()):
            yield each


def aligned_bytes(module: nn.Module) -> int:
    """Sum the bytes of a module's parameters, each rounded up to an aligned address."""
    sizes = (p.numel() * p.element_size() for p in module.parameters())
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)


def _keep_what_no_leaf_owns(module: nn.Module, device: torch.device) -> int:
    """Move buffers, and parameters of modules with children, to the device; return their bytes."""
    owned = {id(p) for leaf in leaves(module) for p in leaf.parameters()}
    rest = [t for t in (*module.parameters(), *module.buffers()) if id(t) not in owned]
    for tensor in rest:
        tensor.data = tensor.data.to(device)
    return sum(t.numel() * t.element_size() for t in rest)


class OneByOne:
    """Brings each leaf for its call alone, and waits, so that a model larger than the card runs.

    Attributes
    ----------
    copying : float
        Seconds that were spent copying, not computing.
    """

    def __init__(self, module: nn.Module, device: str = "cuda") -> None:
        self.copying = 0.0
        self._device = torch.device(device)
        self._synchronize = torch.get_device_module(device).synchronize
        self._host: dict[nn.Parameter, torch.Tensor] = {}
        _keep_what_no_leaf_owns(module, self._device)
        for leaf in leaves(module):
            self._host.update((p, p.data) for p in leaf.parameters())
            leaf.register_forward_pre_hook(self._bring)
            leaf.register_forward_hook(self._let_go)

    def _bring(self, leaf: nn.Module, _: Any) -> None:
        self._synchronize()
        began = time.perf_counter()
        for parameter in leaf.parameters():
            parameter.data = self._host[parameter].to(self._device)
        self._synchronize()
        self.copying += time.perf_counter() - began

    def _let_go(self, leaf: nn.Module, *_: Any) -> None:
        for parameter in leaf.parameters():
            parameter.data = self._host[parameter]


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


class PrefixAndLeaves:
    """Keeps the first leaves that fit the budget; streams the others through two slots.

    One side stream copies; while a leaf computes, the one that followed it last time is brought.
    Fixed slots stand for what is offloaded elsewhere to fresh memory and ``record_stream``: with
    that the host, running ahead, takes more than the budget.

    Parameters
    ----------
    module : torch.nn.Module
        On the CPU; it is changed in place.
    budget : int
        Bytes of weights that may be on the card, slots included.
    device : str
        Where it computes.

    Attributes
    ----------
    moved : int
        Bytes brought since the start.

    Raises
    ------
    ValueError
        If the budget is less than two of the largest leaves.
    """

    def __init__(self, module: nn.Module, budget: int, device: str = "cuda") -> None:
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
        while found and aligned_bytes(found[0]) <= left:
            left -= aligned_bytes(found[0])
            found.pop(0).to(self._device)
        self._slots = [_Slot(largest, self._device) for _ in range(2)]
        for each in found:
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
