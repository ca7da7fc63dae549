"""A session's core and its card, as torch sees them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from vramx import _core
from vramx.errors import OutOfMemoryError
from vramx.integrations.torch.internals.streams import present_stream


class TorchCore:
    """What all of a session's torch side stands on.

    Parameters
    ----------
    core : _core.Core
        The session's core.
    device : _core.Device
        Its card.
    check : bool
        Whether writes that were not reported are looked for.

    Attributes
    ----------
    device : torch.device
        The card as torch calls it; ``cpu`` for the simulated one.
    two_copies : bool
        Whether weights on the card have a host copy that the program may read and write too.
    packs : bool
        Whether weights can have packed copies.
    keeps_raw : bool
        Whether weights have raw host copies beside packed ones. Without, uses outside leases find
        nothing where they lie.
    points_elsewhere : bool
        Whether storages of weights point elsewhere without a lease than under one.
    managed_access : bool
        Whether what the program allocates may lie beyond the card.
    keep_digests : bool
        Whether weights are compared with what they were.
    stream : _core.PresentStream
        Returns the handle of the calling thread's current stream.
    """

    def __init__(self, core: _core.Core, device: _core.Device, *, check: bool) -> None:
        self.core = core
        self.check = check
        self.computes_on_host = device.computes_on_host
        self.ordinal = device.ordinal
        self.device = (
            torch.device("cpu") if self.computes_on_host else torch.device("cuda", self.ordinal)
        )
        self.two_copies = device.host_addresses
        self.packs = device.packs
        self.keeps_raw = device.keeps_raw
        self.points_elsewhere = self.two_copies or not self.keeps_raw
        self.managed_access = device.managed_access
        # A simulated card of one address compares the copies of what it drops.
        self.keep_digests = check and (self.two_copies or not self.computes_on_host)
        self.stream = present_stream(self.device)
        self._told_unpacked = False

    def pack(self, weights: Sequence[tuple[int, int, str, str]]) -> bool:
        """Make packed copies of weights; warn once where memory for them runs out.

        Parameters
        ----------
        weights : sequence of (int, int, str, str)
            Addresses, bytes, types and names.

        Returns
        -------
        bool
            Whether it was done, as far as memory allows. Else the card has no room for that now.
        """
        try:
            return self.core.pack(weights)
        except OutOfMemoryError as error:
            if not self._told_unpacked:
                self._told_unpacked = True
                warnings.warn(
                    f"{error}. They are used raw. Free host memory before they are managed, or "
                    'manage less; compress="never" says that it is meant so',
                    RuntimeWarning,
                    stacklevel=7,
                )
            return True

    def finish(self) -> None:
        """Wait until the card has done what it was given."""
        if not self.computes_on_host:
            torch.cuda.synchronize(self.device)
