"""CuPy's arrays in a session's memory, over the stand-in driver and a stand-in for CuPy."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fake_cupy
import vramx
from loopback.control import Loopback
from vramx.arrays import array_ranges

pytest_plugins = ("loopback.fixture",)

MIB = 2**20
OpenSession = Callable[[], vramx.Session]


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, where `import cupy` finds it."""
    module = fake_cupy.make()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.delitem(sys.modules, "vramx.integrations.cupy", raising=False)
    return module


@pytest.fixture
def door(cupy: Any) -> Iterator[ModuleType]:  # noqa: ARG001
    yield importlib.import_module("vramx.integrations.cupy")
    sys.modules.pop("vramx.integrations.cupy")


def test_arrays_of_twice_the_budget_keep_their_bytes(
    on_card: OpenSession, cupy: Any, door: Any, loopback: Loopback
) -> None:
    session = on_card()
    with door.route(session):
        arrays = [cupy.empty((MIB,), np.int32) for _ in range(8)]
    for number, array in enumerate(arrays):
        with session.pin(array):
            loopback.touch(array.data.ptr, array.nbytes, write=True)
            array.host()[:] = number
    session.evict(arrays[0])
    assert loopback.counts.peak_on_card <= 16 * MIB
    assert session.stats().peak_resident <= 16 * MIB
    for number, array in enumerate(arrays):
        assert (array.host() == number).all()


def test_an_array_comes_back_by_prefetch_and_leaves_by_evict(
    on_card: OpenSession, cupy: Any, door: Any
) -> None:
    session = on_card()
    with door.route(session):
        array = cupy.empty((MIB,), np.float32)
    where = [(array.data.ptr, array.nbytes)]
    session.evict(array)
    assert not session._core.on_card(where)
    with session.pin(array) as same:
        assert same is array
        assert session._core.on_card(where)
        with pytest.raises(vramx.InUseError):
            session.evict(array)
    session.evict(array)
    session.prefetch(array)
    with session.pin(array):
        assert session._core.on_card(where)


def test_a_freed_array_gives_its_memory_back(
    on_card: OpenSession, cupy: Any, door: Any, loopback: Loopback
) -> None:
    session = on_card()
    with door.route(session):
        for _ in range(50):
            cupy.empty((8 * MIB,), np.uint8)
        assert loopback.counts.managed <= 32 * MIB
        with pytest.raises(vramx.OutOfMemoryError, match="host_limit"):
            cupy.empty((65 * MIB,), np.uint8)
        cupy.empty((48 * MIB,), np.uint8)


def test_arrays_outlive_scope_and_session(on_card: OpenSession, cupy: Any, door: Any) -> None:
    session = on_card()
    with door.route(session):
        array = cupy.empty((1000,), np.int64)
    array.host()[:] = 7
    session.close()
    assert (array.host() == 7).all()
    with pytest.raises(vramx.SessionClosedError):
        door.route(session).__enter__()


def test_an_empty_array_takes_nothing(on_card: OpenSession, cupy: Any, door: Any) -> None:
    session = on_card()
    with door.route(session):
        array = cupy.empty((0, 3), np.float64)
    assert array_ranges(array) == []
    session.prefetch(array)
    assert session.stats().managed == 0


def test_memory_is_taken_on_cupys_current_stream(
    on_card: OpenSession, cupy: Any, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = on_card()
    asked: list[tuple[int, int]] = []

    def empty(size: int, stream: int) -> Any:
        asked.append((size, stream))
        return SimpleNamespace(address=4096)

    core = SimpleNamespace(empty=empty)
    monkeypatch.setattr(session, "_core", core)
    cupy.cuda.stream = 77
    with door.route(session):
        cupy.empty((5,), np.uint8)
    monkeypatch.undo()
    assert asked == [(5, 77)]


def test_another_device_is_refused(on_card: OpenSession, cupy: Any, door: Any) -> None:
    session = on_card()
    cupy.cuda.device = 1
    with door.route(session), pytest.raises(vramx.ConfigError, match="current device is 1"):
        cupy.empty((1,))


def test_a_scope_is_one_threads_and_an_installation_all_threads(
    on_card: OpenSession, cupy: Any, door: Any
) -> None:
    session = on_card()
    made: list[Any] = []

    def other() -> None:
        try:
            made.append(cupy.empty((5,)))
        except AssertionError as error:
            made.append(str(error))

    def ask_another_thread() -> Any:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return made.pop()

    before = cupy.cuda.get_allocator()
    with door.route(session):
        assert "own pool" in ask_another_thread()
        with pytest.raises(vramx.ConfigError, match="using_allocator"):
            door.install(session)
    assert cupy.cuda.get_allocator() == before
    assert door.install(session) == before
    assert session._core.owned(array_ranges(ask_another_thread()))
    session.close()
    with pytest.raises(vramx.SessionClosedError):
        cupy.empty((5,))
    cupy.cuda.set_allocator(before)


def test_simulated_sessions_are_refused(door: Any, open_session: Any) -> None:
    with pytest.raises(vramx.ConfigError, match="real card"):
        door.install(open_session())


# Where arrays lie


class Foreign:
    """An array of some library, over a numpy one."""

    def __init__(self, array: np.ndarray, *, packed: bool) -> None:
        self.interface = dict(array.__array_interface__)
        if packed:
            self.interface["strides"] = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


slices = st.builds(slice, st.integers(-4, 4), st.integers(-4, 4), st.sampled_from([-2, -1, 1, 2]))


@given(st.lists(slices, min_size=1, max_size=3), st.sampled_from([np.uint8, np.float32, np.int64]))
def test_a_foreign_array_lies_where_a_numpy_one_of_its_strides_does(
    cut: list[slice], dtype: Any
) -> None:
    array = np.zeros((5, 4, 3), dtype)[tuple(cut)]
    assert array_ranges(Foreign(array, packed=False)) == array_ranges(array)
    whole = np.ascontiguousarray(array)
    assert array_ranges(Foreign(whole, packed=True)) == array_ranges(whole)
    if whole.size:
        assert array_ranges(whole) == [(whole.__array_interface__["data"][0], whole.nbytes)]


def test_what_is_no_array_has_no_place() -> None:
    torch = pytest.importorskip("torch")
    for thing in (3, "x", Foreign, torch.ones(2, requires_grad=True), torch.nn.Linear(2, 2)):
        assert array_ranges(thing) is None
