"""What a model does in a pass, from a file of weights or from the module itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vramx.checkpoints import StoredTensor, read_model
from vramx.forecast.cards import described_card, find_card, this_card
from vramx.forecast.passes import Forecast, forecast
from vramx.forecast.table import PlannedCard
from vramx.units import Size, as_count
from vramx.uses import PACKED_SHARES, ModuleUse


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Order names with numbers by their numbers."""
    return [
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
        for piece in re.split(r"[.]|(\d+)", name)
        if piece
    ]


def group(tensors: Sequence[StoredTensor], positions: int) -> list[ModuleUse]:
    """Group a file's tensors into modules: what has the same name up to the last dot.

    Parameters
    ----------
    tensors : sequence of StoredTensor
        The tensors.
    positions : int
        To how many positions a pass applies each weight.

    Returns
    -------
    list of ModuleUse
        One use of each module, in the order of their names, numbers by value.
    """
    modules: dict[str, list[StoredTensor]] = {}
    for tensor in tensors:
        modules.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
    uses = []
    for name in sorted(modules, key=_natural):
        own = modules[name]
        floating = [tensor for tensor in own if tensor.is_floating]
        uses.append(
            ModuleUse(
                name=name,
                nbytes=sum(tensor.nbytes for tensor in own),
                elements=sum(tensor.count for tensor in floating),
                element_bytes=sum(tensor.nbytes for tensor in floating),
                operations=2.0 * positions * sum(t.count for t in own if len(t.shape) > 1),
                half=not any(tensor.dtype in ("F32", "F64") for tensor in own),
                packed=round(sum(t.nbytes * PACKED_SHARES.get(t.dtype, 1) for t in own)),
            )
        )
    return uses


#: What torch keeps on a card besides activations, once it has multiplied matrices: segments for
#: small tensors, and the library's workspace, 32 MiB on an H200.
WORKSPACES = 64 * 2**20


def _chosen(
    card: str | PlannedCard, memory: Size | None = None, link: Size | None = None
) -> PlannedCard:
    described = memory is not None or link is not None
    if card == "auto" and described:
        return described_card(None, memory, link)
    if not isinstance(card, PlannedCard):
        card = this_card() if card == "auto" else find_card(card)
    return described_card(card, memory, link) if described else card


def for_file(
    path: str | Path,
    *,
    budget: Size | None = None,
    card: str | PlannedCard = "auto",
    memory: Size | None = None,
    link: Size | None = None,
    positions: int = 1,
    compute: float | None = None,
    reserve: Size = "512MiB",
    block: Size = "32MiB",
    backend: str = "mapped",
) -> Forecast:
    """Forecast passes of a model from its file of weights, whose header alone is read.

    A file does not say in which order its modules run (their names' order is taken) nor what
    activations take (they are not counted).

    Parameters
    ----------
    path : str or Path
        A file or folder that `vramx.checkpoints.read_model` reads.
    budget : int, float or str, optional
        The most bytes on the card at once; the card's memory less `reserve` unless given.
    card : str or PlannedCard
        A name from `CARDS`, ``"auto"`` for this machine's, or a card of your own.
    memory, link : int, float or str, optional
        Bytes on the card and bytes a second of a copy to it, where they are others than the card's;
        with both no card need be named.
    positions : int
        To how many positions (tokens, pixels, patches) a pass applies each weight, from which its
        operations are estimated as two a weight and position.
    compute : float, optional
        Seconds of a pass with everything resident, if measured; used in place of that estimate.
    reserve : int, float or str
        What CUDA and libraries take of the card.
    block : int, float or str
        The unit of residency.
    backend : str
        Where weights are kept: ``"mapped"``, as sessions do on most cards, ``"managed"``, which
        moves them slower, or ``"simulated"``.

    Returns
    -------
    Forecast
        The forecast.

    Raises
    ------
    ConfigError
        If the file cannot be read, the card is not known, or a figure is not allowed.
    NoDeviceError
        If `card` is ``"auto"`` and there is none.
    """
    positions = as_count(positions, "positions")
    return forecast(
        group(read_model(path), positions),
        card=_chosen(card, memory, link),
        budget=budget,
        compute=compute,
        activations=None,
        reserve=reserve,
        block=block,
        backend=backend,
        estimate=f"2 operations a weight and position, {positions} positions",
    )


def for_module(
    module: Any,
    sample: Sequence[Any],
    keywords: Mapping[str, Any] | None = None,
    *,
    budget: Size | None = None,
    card: str | PlannedCard = "auto",
    compute: float | None = None,
    reserve: Size = "512MiB",
    block: Size = "32MiB",
    backend: str = "mapped",
) -> Forecast:
    """Forecast passes of a torch module from one call on a sample, in which nothing is computed.

    The call runs on shapes alone, so the module may be larger than any memory here: on the meta
    device it needs none. It tells the order of the modules, their operations and the activations.

    Parameters
    ----------
    module : torch.nn.Module
        The module, on any device.
    sample : sequence
        Arguments of a typical call.
    keywords : mapping, optional
        Keyword arguments of it.
    budget, card, compute, reserve, block, backend
        As `for_file`.

    Returns
    -------
    Forecast
        The forecast.

    Raises
    ------
    ConfigError
        If the module has no weights, its path depends on values, or as `for_file`.
    NoDeviceError
        As `for_file`.
    """
    from vramx.integrations.torch.sample import sample_pass

    uses, activations = sample_pass(module, sample, keywords or {})
    return forecast(
        uses,
        card=_chosen(card),
        budget=budget,
        compute=compute,
        activations=activations + (0 if backend == "simulated" else WORKSPACES),
        reserve=reserve,
        block=block,
        backend=backend,
        estimate="the operations of a sample call",
    )
