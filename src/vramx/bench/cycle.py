"""A model of linear layers used in a cycle within a budget, against the limits of the hardware."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from vramx.bench.layers import build, bytes_of
from vramx.bench.limits import Limits, limits, nearest_rank
from vramx.bench.machine import Machine
from vramx.bench.measuring import WARM_UP, host_bytes, passes_within
from vramx.session import Session

#: Seconds of passes that are measured, within their least and most.
_LENGTH = 2.0


def _nothing(session: Session, x: torch.Tensor) -> None:
    """Do nothing at the end."""


def _packed_bytes(session: Session) -> int:
    """Sum the bytes that hold the weights where what can be is packed; 0 where nothing is."""
    modules = session.modules()
    if not any(each.packed_on_host for each in modules):
        return 0
    return sum(each.packed_on_host or each.nbytes for each in modules)


@dataclass
class Resident:
    """A pass with everything on the card.

    Attributes
    ----------
    x, out : torch.Tensor
        What goes in, and what comes out.
    seconds : float
        How long it takes.
    activations : int
        The most bytes that torch allocates for it on the card, workspaces included.
    """

    x: torch.Tensor
    out: torch.Tensor
    seconds: float
    activations: int

    def leaves(self, budget: int) -> int:
        """Tell what of a budget is left for weights, in bytes."""
        return max(0, budget - self.activations)


class Cycle:
    """A model used in a cycle on one machine.

    Parameters
    ----------
    machine : Machine
        Where.
    weights : int
        The most bytes of the model's weights.
    width : int
        Of its layers.

    Attributes
    ----------
    model : torch.nn.Sequential
        The model, on the CPU.
    weights : int
        Bytes of its weights.
    """

    def __init__(self, machine: Machine, weights: int, width: int) -> None:
        self.machine = machine
        self._layer_seconds = 0.0
        self.model = build(
            weights,
            width,
            machine.dtype,
            machine.device,
            lambda: machine.compute(self._layer_seconds),
        )
        self.weights = bytes_of(self.model)
        self._width = width

    def _times(self, x: torch.Tensor, passes: int) -> list[float]:
        return self.machine.times(lambda: self.model(x), passes)[0]

    @torch.no_grad()
    def all_resident(
        self, tokens: list[int], virtual: Callable[[int], float]
    ) -> dict[int, Resident]:
        """Run the plain model with everything on the card.

        Parameters
        ----------
        tokens : list of int
            Rows of the input, one or more counts of them.
        virtual : callable
            Tells the seconds that a pass over so many tokens takes on the simulated card.

        Returns
        -------
        dict of int to Resident
            By the tokens.
        """
        self.model.to(self.machine.device)
        found = {}
        generator = torch.Generator().manual_seed(1)
        for count in tokens:
            x = torch.randn(count, self._width, generator=generator)
            x = x.to(self.machine.device, self.machine.dtype)
            out = self.model(x)
            seconds, activations = virtual(count), 0
            if self.machine.on_card:
                times, activations = self.machine.allocating(functools.partial(self._times, x, 10))
                seconds = statistics.median(times)
            found[count] = Resident(x, out, seconds, activations)
        self.model.cpu()
        self.machine.forget()
        return found

    def limits(
        self, budget: int, plain: Resident, link: float, *, packed: int = 0, unpack: float = 0.0
    ) -> Limits:
        """Compute the limits of weights that have the budget less what a pass allocates.

        Parameters
        ----------
        budget : int
            Bytes.
        plain : Resident
            The pass with everything resident.
        link : float
            Bytes a second to the card.
        packed : int
            Bytes of the weights packed; 0 where they are not.
        unpack : float
            Raw bytes a second that the card unpacks.

        Returns
        -------
        Limits
            The limits.
        """
        for_weights = plain.leaves(budget)
        return limits(
            self.weights,
            for_weights,
            link,
            plain.seconds,
            self.machine.block,
            packed=packed,
            unpack=unpack,
        )

    @torch.no_grad()
    def within(
        self,
        budget: int,
        plain: Resident,
        *,
        policy: str = "adaptive",
        passes: int | None = None,
        steady: AbstractContextManager[Any] | None = None,
        at_end: Callable[[Session, torch.Tensor], None] = _nothing,
    ) -> dict[str, Any]:
        """Run it within a budget, in a session of its own.

        The first passes, in which the policy plans, are measured apart. The link is measured
        before and after the others. Limits are those of weights that have the budget less what a
        pass allocates.

        Parameters
        ----------
        budget : int
            Bytes.
        plain : Resident
            The same with everything resident.
        policy : str
            Of the session.
        passes : int, optional
            How many to measure; 10 to 30 by their time unless given.
        steady : context manager, optional
            What is open during the measured passes and those of the link.
        at_end : callable
            Called with the session and the input, when all is measured.

        Returns
        -------
        dict
            Times in seconds, rates and bytes, over the limits and as they are.
        """
        self._layer_seconds = plain.seconds / len(self.model)
        host_before = host_bytes()
        self.machine.forget()  # so that what they keep is the session's, as in a program of its own
        with self.machine.session(budget, policy) as session:
            kind = session.device.kind
            began = time.perf_counter()
            session.manage(self.model)
            setup = time.perf_counter() - began
            host_after = host_bytes()
            warm_up = self._times(plain.x, WARM_UP)
            passes = passes or passes_within(_LENGTH, warm_up[-1])
            before = session.stats()
            with steady or contextlib.nullcontext():
                rates = [self.machine.link() for _ in range(3)]
                times = self._times(plain.x, passes)
                rates += [self.machine.link() for _ in range(3)]
            after = session.stats()
            packed, unpack = _packed_bytes(session), session.device.unpack_rate
            same = torch.equal(self.model(plain.x), plain.out)
            at_end(session, plain.x)
        moved = (after.moved_in - before.moved_in) / passes
        crossed = (after.crossed_in - before.crossed_in) / passes
        median, p99 = statistics.median(times), nearest_rank(times, 0.99)
        link = statistics.median(rates)
        limit = self.limits(budget, plain, link, packed=packed, unpack=unpack)
        excess = self.weights - plain.leaves(budget)
        return {
            "kind": kind,
            "all_resident_s": plain.seconds,
            "activations": plain.activations,
            "setup_s": setup,
            "host_growth": host_after - host_before,
            "host_bytes": host_after,
            "link": link,
            "first_s": warm_up[0],
            "median_s": median,
            "p99_s": p99,
            "p99_over_median": p99 / median,
            "t_fluid": limit.fluid,
            "t_plan": limit.plan,
            "t_packed": limit.packed,
            "over_fluid": median / limit.fluid,
            "over_plan": median / limit.plan,
            "over_packed": median / limit.packed,
            "over_lru": median / limit.lru,
            "moved_over_excess": moved / excess if excess > 0 else None,
            "moved_in": moved,
            "crossed_in": crossed,
            "written_back": after.moved_out - before.moved_out,
            "peak_resident": after.peak_resident,
            "same_bits": same,
        }
