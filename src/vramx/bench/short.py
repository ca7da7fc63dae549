"""A short benchmark of the machine that the program runs on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vramx.bench.limits import budget_of
from vramx.cards.nvml import card_memory
from vramx.cards.simulation import current_simulation
from vramx.config import from_environment
from vramx.doctor.this_machine import ThisMachine
from vramx.errors import ConfigError, Error, NoDeviceError
from vramx.units import Size, as_count, format_size, parse_size

#: The most that a card is asked to hold unless told: enough for a steady link.
_WEIGHTS = 4 * 2**30
_SIMULATED_WEIGHTS = 64 * 2**20
#: Of what is free on the card, and of the managed memory that may be had.
_PART = 3
#: On the simulated card a pass computes for this part of the time that its weights take to cross.
_COMPUTE = 0.25


@dataclass(frozen=True)
class Row:
    """A backend within one budget; bytes and seconds.

    Attributes
    ----------
    backend : str
        Of the session.
    ratio : float
        Weights over budget.
    budget : int
        The most on the card at once.
    seconds, first : float
        The median pass in the steady state, and the first one.
    t_fluid, t_plan, t_packed : float
        What nothing that moves uncompressed bytes can beat, what an even plan of them reaches, and
        what one with packed copies does, in what the budget leaves for weights.
    moved, crossed : float
        Bytes brought to the card in each pass, and bytes that the link carried for them.
    peak_resident : int
        The most that was on the card at once.
    same_bits : bool
        Whether the output is that of the model without vramx.
    """

    backend: str
    ratio: float
    budget: int
    seconds: float
    first: float
    t_fluid: float
    t_plan: float
    t_packed: float
    moved: float
    crossed: float
    peak_resident: int
    same_bits: bool


@dataclass(frozen=True)
class Bench:
    """What a short benchmark found; bytes, seconds and bytes a second.

    Attributes
    ----------
    card : str
        The card.
    torch : str
        Its version.
    to_card, to_host : float
        What pinned copies reach.
    weights, block : int
        Of the model, and of the sessions.
    all_resident : float
        A pass with everything on the card.
    rows : tuple of Row
        What was run.
    unsupported : dict of str to str
        Backends that the machine does not support, and why.
    """

    card: str
    torch: str
    to_card: float
    to_host: float
    weights: int
    block: int
    all_resident: float
    rows: tuple[Row, ...]
    unsupported: dict[str, str]

    @property
    def right(self) -> bool:
        """Whether each output was right, and within its budget."""
        return all(row.same_bits and row.peak_resident <= row.budget for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def text(self) -> str:
        """Write it for people."""
        lines = [
            f"card          {self.card}, torch {self.torch}",
            f"link          {self.to_card / 1e9:.1f} GB/s to the card, "
            f"{self.to_host / 1e9:.1f} GB/s back, by pinned copies",
            f"model         {format_size(self.weights)} of linear layers, "
            f"{self.all_resident * 1e3:.1f} ms a pass with all resident",
            "",
            "backend    W/B   budget      pass ms   first ms  over T_fluid  over T_plan  "
            "over T_packed  same bits",
        ]
        lines += [
            f"{row.backend:<11}{row.ratio:<6g}{format_size(row.budget):<12}"
            f"{row.seconds * 1e3:<10.1f}{row.first * 1e3:<10.1f}{row.seconds / row.t_fluid:<14.3f}"
            f"{row.seconds / row.t_plan:<13.3f}{row.seconds / row.t_packed:<15.3f}"
            f"{'yes' if row.same_bits else 'NO'}"
            for row in self.rows
        ]
        lines += [f"{name} is not supported here: {why}" for name, why in self.unsupported.items()]
        return "\n".join(lines)


def bench(
    backends: Sequence[str] = (),
    *,
    weights: Size | None = None,
    ratios: Sequence[float] = (1.5, 2.0, 4.0),
    tokens: int | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> Bench:
    """Measure the link, and a model used in a cycle within budgets smaller than its weights.

    Parameters
    ----------
    backends : sequence of str
        ``"mapped"``, ``"managed"``, ``"simulated"``; unless given, those of the first two that the
        machine supports. The simulated card's times are virtual.
    weights : int, float or str, optional
        Of the model; 4 GiB unless given, or a third of what is free on the card or allowed by
        ``VRAMX_MANAGED_LIMIT``. The card holds all of them once, for comparison.
    ratios : sequence of float
        Of weights to budget, each above 1.
    tokens : int, optional
        Rows of the input, which set how much a card computes: 2048 unless given, or 4 on the
        simulated card, where a pass counts for a quarter of the time that its weights take to
        cross.
    on_row : callable, optional
        Told of each row as it becomes known.

    Returns
    -------
    Bench
        What was found.

    Raises
    ------
    ConfigError
        If an argument is not allowed.
    NoDeviceError
        If there is no card that can be used so.
    Error
        If torch is not installed; and what sessions raise.
    """
    wrong = [each for each in backends if each not in ("mapped", "managed", "simulated")]
    simulated = "simulated" in backends
    if wrong or (simulated and len(set(backends)) > 1):
        raise ConfigError(
            f"backends {', '.join(backends)} cannot be measured: give mapped, managed or both, or "
            "simulated alone"
        )
    if not ratios or not all(1 < each < 1e6 for each in ratios):
        raise ConfigError(f"ratios {list(ratios)} of weights to budget must be above 1")
    if tokens is not None:
        as_count(tokens, "tokens")
    asked = None if weights is None else parse_size(weights, "weights")
    if importlib.util.find_spec("torch") is None:
        raise Error("a benchmark runs by torch, which is not installed: pip install 'vramx[torch]'")
    unsupported: dict[str, str] = {}
    if simulated:
        names = ["simulated"]
        asked, tokens = asked or _SIMULATED_WEIGHTS, tokens or 4
    else:
        names, unsupported = _supported(backends)
        asked, tokens = asked or _weights_for_card(), tokens or 2048
    return _measure(names, unsupported, asked, ratios, tokens, on_row)


def _supported(asked: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tell which backends can be had, and why the others cannot."""
    import torch

    machine = ThisMachine()
    opens = {"mapped": machine.open_mapped, "managed": machine.open_managed}
    names, unsupported = [], {}
    for name in dict.fromkeys(asked or opens):
        try:
            opens[name](0)
        except NoDeviceError as error:
            unsupported[name] = str(error)
        else:
            names.append(name)
    if not names or (asked and unsupported):
        raise NoDeviceError("; ".join(dict.fromkeys(unsupported.values())))
    if not torch.cuda.is_available():
        raise NoDeviceError(
            'torch finds no card: install a build with CUDA, or use backend="simulated"'
        )
    return names, unsupported


def _weights_for_card() -> int:
    import torch

    free = card_memory(f"GPU-{torch.cuda.get_device_properties(0).uuid}").free
    limit = from_environment().managed_limit
    return min(_WEIGHTS, (free if limit is None else min(free, limit)) // _PART)


def _measure(
    names: list[str],
    unsupported: dict[str, str],
    weights: int,
    ratios: Sequence[float],
    tokens: int,
    on_row: Callable[[Row], None] | None,
) -> Bench:
    import torch

    from vramx.bench.cycle import Cycle
    from vramx.bench.machine import Machine

    block = 2**20 if names == ["simulated"] else 32 * 2**20
    machine = Machine(names[0], block)
    # A layer fills a block.
    cycle = Cycle(machine, weights, 512 if machine.backend == "simulated" else 4096)
    virtual = _COMPUTE * cycle.weights / current_simulation().link_up
    plain = cycle.all_resident([tokens], lambda _: virtual)[tokens]
    to_card = max(machine.link() for _ in range(3))
    to_host = max(machine.link_to_host() for _ in range(3))
    rows = []
    for name in names:
        machine.backend = name
        for ratio in ratios:
            budget = budget_of(cycle.weights, ratio, block)
            found = cycle.within(budget, plain)
            row = Row(
                backend=name,
                ratio=ratio,
                budget=budget,
                seconds=found["median_s"],
                first=found["first_s"],
                t_fluid=found["t_fluid"],
                t_plan=found["t_plan"],
                t_packed=found["t_packed"],
                moved=found["moved_in"],
                crossed=found["crossed_in"],
                peak_resident=found["peak_resident"],
                same_bits=found["same_bits"],
            )
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return Bench(
        card=machine.name,
        torch=torch.__version__,
        to_card=to_card,
        to_host=to_host,
        weights=cycle.weights,
        block=block,
        all_resident=plain.seconds,
        rows=tuple(rows),
        unsupported=unsupported,
    )
