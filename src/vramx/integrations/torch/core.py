"""A session's core and its card, as torch sees them."""

from __future__ import annotations

import torch

from vramx import _core
from vramx.integrations.torch.internals.streams import present_stream
from vramx.session.packing import Packing


class TorchCore:
    """What all of a session's torch side stands on.

    Parameters
    ----------
    core : _core.Core
        The session's core.
    device : _core.Device
        Its card.
    packing : Packing
        Gives weights packed copies.
    check : bool
        Whether writes that were not reported are looked for.

    Attributes
    ----------
    device : torch.device
        The card as torch calls it; ``cpu`` for the simulated one.
    two_copies : bool
        Whether weights on the card have a host copy that the program may read and write too.
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

    def __init__(
        self, core: _core.Core, device: _core.Device, packing: Packing, *, check: bool
    ) -> None:
        self.core = core
        self.packing = packing
        self.check = check
        self.computes_on_host = device.computes_on_host
        self.ordinal = device.ordinal
        self.device = (
            torch.device("cpu") if self.computes_on_host else torch.device("cuda", self.ordinal)
        )
        self.two_copies = device.host_addresses
        self.keeps_raw = device.keeps_raw
        self.points_elsewhere = self.two_copies or not self.keeps_raw
        self.managed_access = device.managed_access
        # A simulated card of one address compares the copies of what it drops.
        self.keep_digests = check and (self.two_copies or not self.computes_on_host)
        self.stream = present_stream(self.device)

    def finish(self) -> None:
        """Wait until the card has done what it was given."""
        if not self.computes_on_host:
            torch.cuda.synchronize(self.device)
