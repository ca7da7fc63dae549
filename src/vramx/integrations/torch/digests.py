"""Checking mode: finding parameters that were written without anybody being told."""

from __future__ import annotations

import torch

from vramx.errors import UnreportedWriteError
from vramx.integrations.torch.memory import storage_range
from vramx.integrations.torch.units import has_version


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
    """

    def __init__(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        self._parameters = {name: p for name, p in parameters.items() if has_version(p)}
        self._known = {name: (p._version, _digest(p)) for name, p in self._parameters.items()}

    def verify(self) -> None:
        """Compare the parameters with their digests.

        Raises
        ------
        UnreportedWriteError
            If bytes changed and neither a version counter nor ``session.written`` told.
        """
        for name, parameter in self._parameters.items():
            version, digest = self._known[name]
            present = _digest(parameter)
            if present != digest and parameter._version == version:
                raise UnreportedWriteError(
                    f"{name} changed and nothing told: call session.written({name}) after "
                    "writing through .data or a raw pointer"
                )
            self._known[name] = (parameter._version, present)

    def accept(self, ranges: list[tuple[int, int]]) -> None:
        """Take the present bytes of some parameters as reported.

        Parameters
        ----------
        ranges : list of (int, int)
            Addresses and bytes of their storages.
        """
        for name, parameter in self._parameters.items():
            if storage_range(parameter) in ranges:
                self._known[name] = (parameter._version, _digest(parameter))
