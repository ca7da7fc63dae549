"""A model's weights in a session's memory, leased as one while it runs."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnxruntime import OrtValue
from onnxruntime.capi import onnxruntime_pybind11_state as native

from vramx import _core
from vramx.errors import Error, OutOfMemoryError
from vramx.integrations.onnxruntime.optimising import TYPES, Initializer, OptimisedModel
from vramx.integrations.onnxruntime.provider import route
from vramx.seeing.usage import ModuleStats, module_stats
from vramx.session import Range, Session
from vramx.units import format_size

#: What the core calls the types that it packs.
_PACKED_TYPES = {1: "fp32", 10: "fp16", 16: "bf16"}
_STREAM = 0  # the legacy default one, to which the provider gives all of its work


class ModelWeights:
    """A model's weights in a session's memory. They go when nobody holds them any more.

    Parameters
    ----------
    session : Session
        The session.
    name : str
        How reports call the model.
    optimised : OptimisedModel
        The model, with its bytes.

    Attributes
    ----------
    values : list of (str, onnxruntime.OrtValue)
        The weights by their names in the graph.

    Raises
    ------
    OutOfMemoryError
        If they are larger than the budget, or the host cannot hold them.
    """

    def __init__(self, session: Session, name: str, optimised: OptimisedModel) -> None:
        weights = optimised.weights
        self._session = session
        core, sizes = session._core, [each.nbytes for each in weights]
        budget = core.stats().budget
        if sum(sizes) > budget:
            raise OutOfMemoryError(
                f"{name} has weights of {format_size(sum(sizes))}, more than the budget of "
                f"{format_size(budget)}: they are on the card together while it runs; give a "
                "larger budget"
            )
        memories = core.reserve(sizes, _core.Purpose.WEIGHTS) if sizes else []
        if memories:
            source = np.frombuffer(optimised.content, "u1").ctypes.data
            core.store(
                [
                    (memory.address, source + each.start, each.nbytes)
                    for memory, each in zip(memories, weights)
                ]
            )
        self.values = [(each.name, _value(each, memory)) for each, memory in zip(weights, memories)]
        self._core = core
        self._ranges = [(memory.address, memory.nbytes) for memory in memories]
        self._packed = False
        self._to_pack = [
            (*place, _PACKED_TYPES.get(each.type, ""), each.name)
            for place, each in zip(self._ranges, weights)
        ]
        self._group = core.define(self._ranges, name)
        self.row = _Row(core, name, self._ranges, self._group)
        weakref.finalize(self, self.row.end).atexit = False

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of which no packed copy was tried yet."""
        return 0 if self._packed else sum(nbytes for _, nbytes in self._ranges)

    def pack(self) -> None:
        """Give the weights packed copies, once."""
        if not self._packed:
            self._packed = self._session._packing.make(self._to_pack)

    @contextlib.contextmanager
    def leased(self) -> Iterator[None]:
        """Keep the weights on the card for a run, and serve the calling thread's allocations.

        Raises
        ------
        SessionClosedError
            If the session is closed.
        OutOfMemoryError
            If they cannot be had on the card.
        """
        with self._served():
            self._core.acquire(self._group, _STREAM)
            try:
                yield
            finally:
                self._core.release(self._group, _STREAM)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Do the same while an inference session is made, which is no run.

        Raises
        ------
        SessionClosedError, OutOfMemoryError
            As `leased`.
        """
        with self._served():
            self._core.take(self._ranges, _STREAM, True)
            try:
                yield
            finally:
                self._core.give(self._ranges, _STREAM, True)

    @contextlib.contextmanager
    def _served(self) -> Iterator[None]:
        self._session._usable()
        if self._session.device.computes_on_host:
            yield
            return
        with route(self._session):
            yield


def _value(weight: Initializer, memory: _core.Memory) -> Any:
    code, bits = TYPES[weight.type]
    return OrtValue(native.OrtValue.from_dlpack(memory.tensor(weight.sides, code, bits)))


class _Row:
    """What is counted of a model, now or as it was when its weights went."""

    def __init__(self, core: _core.Core, name: str, ranges: list[Range], group: int) -> None:
        self.name = name
        self._core, self._ranges, self._group = core, ranges, group
        self._past: ModuleStats | None = None

    def now(self) -> ModuleStats:
        if self._past is not None:
            return self._past
        return module_stats(self.name, self._ranges, self._core.usage(self._group))

    def end(self) -> None:
        with contextlib.suppress(Error):  # the session is closed
            self._past = self.now()
            self._core.undefine(self._group)


class Models:
    """The models of a session.

    Parameters
    ----------
    session : Session
        The session, which reports them.
    """

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._placing = threading.Lock()
        self._by_content: weakref.WeakValueDictionary[bytes, ModelWeights] = (
            weakref.WeakValueDictionary()
        )
        self._rows: dict[str, _Row] = {}
        session._counters.append(self.usage)

    def weights_of(self, model: str | bytes, optimised: OptimisedModel) -> ModelWeights:
        """Place a model's weights, or return those that are the same to the byte."""
        session = self._session()
        assert session is not None
        content = optimised.digest()
        with self._placing:
            found = self._by_content.get(content)
            if found is None:
                found = ModelWeights(session, self._new_name(model), optimised)
                self._by_content[content] = found
                self._rows[found.row.name] = found.row
                session._packing.pack([*self._by_content.values()])
        return found

    def _new_name(self, model: str | bytes) -> str:
        base = "model" if isinstance(model, bytes) else os.path.basename(model)
        taken = sum(each == base or each.startswith(f"{base} (") for each in self._rows)
        return f"{base} ({taken + 1})" if taken else base

    def usage(self) -> list[ModuleStats]:
        """Count what was done with each model's weights, in the order in which they came."""
        return [row.now() for row in [*self._rows.values()]]


_models: weakref.WeakKeyDictionary[Session, Models] = weakref.WeakKeyDictionary()
_adding = threading.Lock()


def models_of(session: Session) -> Models:
    """Return the models of a session."""
    with _adding:
        if session not in _models:
            _models[session] = Models(session)
        return _models[session]
