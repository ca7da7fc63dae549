"""Checking mode: finding parameters that were written without anybody being told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import _disable_current_modes

from vramx.errors import UnreportedWriteError
from vramx.integrations.torch.memory import storage_range
from vramx.integrations.torch.versions import has_version

if TYPE_CHECKING:
    from vramx.integrations.torch.bridge import TorchBridge


def _digest(tensor: torch.Tensor) -> tuple[int, int]:
    """Sum a tensor's bytes, and those at odd places: cheap, and any one change shows."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return int(raw.sum(dtype=torch.int64)), int(raw[1::2].sum(dtype=torch.int64))


class Digests:
    """The digests of parameters as last reported.

    Parameters
    ----------
    parameters : dict of str to torch.nn.Parameter
        By name. Those made in inference mode always count as written and are left out.
    bridge : TorchBridge
        The torch side of the session whose memory they are in.
    """

    def __init__(self, parameters: dict[str, torch.nn.Parameter], bridge: TorchBridge) -> None:
        self._bridge = bridge
        self._parameters = {name: p for name, p in parameters.items() if has_version(p)}
        self._known = {name: self._look(p) for name, p in self._parameters.items()}

    def _look(self, parameter: torch.nn.Parameter) -> tuple[int, tuple[int, ...]]:
        """Take a parameter's version and digests, where it rests and under a lease."""
        with _disable_current_modes():  # which would take it for a use, and lease it
            at_rest = _digest(parameter) if self._bridge.two_copies else ()
        core, stream, found = self._bridge.core, self._bridge.stream(), storage_range(parameter)
        ranges = [] if found is None else [found]
        core.take(ranges, stream, True)
        try:
            return parameter._version, (*at_rest, *_digest(parameter))
        finally:
            core.give(ranges, stream, True)

    def verify(self) -> None:
        """Compare the parameters with their digests.

        Raises
        ------
        UnreportedWriteError
            If bytes changed and neither a version counter nor ``session.written`` told.
        """
        self._bridge.note_writes()  # so that a lease shows them
        for name, parameter in self._parameters.items():
            version, digest = self._known[name]
            present = self._look(parameter)
            if present[1] != digest and present[0] == version:
                raise UnreportedWriteError(
                    f"{name} changed and nothing told: call session.written({name}) after "
                    "writing through .data or a raw pointer"
                )
            self._known[name] = present

    def accept(self, ranges: list[tuple[int, int]]) -> None:
        """Take the present bytes of some parameters as reported.

        Parameters
        ----------
        ranges : list of (int, int)
            Addresses and bytes of their storages.
        """
        for name, parameter in self._parameters.items():
            if storage_range(parameter) in ranges:
                self._known[name] = self._look(parameter)
