"""Checking mode: finding weights that were written without anybody being told."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

from vramx.errors import UnreportedWriteError
from vramx.integrations.torch.core import TorchCore
from vramx.integrations.torch.internals.layout import has_version
from vramx.integrations.torch.memory import storage_range


def _digest(tensor: torch.Tensor) -> tuple[int, int]:
    """Sum a tensor's bytes, and those at odd places: cheap, and any one change shows."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return int(raw.sum(dtype=torch.int64)), int(raw[1::2].sum(dtype=torch.int64))


class _Seen(NamedTuple):
    """A weight as it was when it was last looked at."""

    place: tuple[int, int] | None
    version: int
    digest: tuple[int, ...]


class Digests:
    """The digests of weights as last reported.

    Parameters
    ----------
    torch_core : TorchCore
        What the torch side of the session stands on whose memory they are in.
    """

    def __init__(self, torch_core: TorchCore) -> None:
        self._torch_core = torch_core
        self._core = torch_core.core
        self._weights: dict[str, torch.Tensor] = {}
        self._known: dict[str, _Seen] = {}

    def follow(self, weights: dict[str, torch.Tensor]) -> None:
        """Compare these from now on: as known, or as they are where they lie elsewhere.

        Parameters
        ----------
        weights : dict of str to torch.Tensor
            By name. Those made in inference mode always count as written and are left out.
        """
        self._weights = {name: each for name, each in weights.items() if has_version(each)}
        known = {name: seen for name, seen in self._known.items() if name in self._weights}
        self._known = {
            name: known[name]
            if name in known and known[name].place == storage_range(each)
            else self._look(each)
            for name, each in self._weights.items()
        }

    def _look(self, weight: torch.Tensor) -> _Seen:
        """Take a weight's version and digests, where it rests and under a lease."""
        with _disable_current_modes():  # which would take it for a use, and lease it
            at_rest = _digest(weight) if self._torch_core.two_copies else ()
        core, stream, found = self._core, self._torch_core.stream(), storage_range(weight)
        ranges = [] if found is None else [found]
        core.take(ranges, stream, True)
        try:
            return _Seen(found, weight._version, (*at_rest, *_digest(weight)))
        finally:
            core.give(ranges, stream, True)

    def verify(self) -> None:
        """Compare the weights with their digests.

        What torch counts as written is to be noted before, so that a lease shows it.

        Raises
        ------
        UnreportedWriteError
            If bytes changed and neither a version counter nor ``session.written`` told.
        """
        for name, weight in self._weights.items():
            known = self._known[name]
            present = self._look(weight)
            told = known.place is None or self._core.exposed(known.place[0])
            if present.digest != known.digest and present.version == known.version and not told:
                raise UnreportedWriteError(
                    f"{name} changed and nothing told: call session.written({name}) after "
                    "writing by a raw pointer"
                )
            self._known[name] = present

    def accept(self, ranges: list[tuple[int, int]]) -> None:
        """Take the present bytes of some weights as reported.

        Parameters
        ----------
        ranges : list of (int, int)
            Addresses and bytes of their storages.
        """
        for name, weight in self._weights.items():
            if storage_range(weight) in ranges:
                self._known[name] = self._look(weight)
