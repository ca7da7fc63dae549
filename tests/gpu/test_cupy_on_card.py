"""What must hold with CuPy on a real card."""

from __future__ import annotations

import numpy as np
import pytest

import vramx

cupy = pytest.importorskip("cupy")
from vramx.integrations.cupy import install, route  # noqa: E402

MIB = 2**20
BUDGET = 64 * MIB
COUNT, SIZE = 16, 8 * MIB


def test_arrays_of_twice_the_budget_are_summed_sorted_and_written_as_numpys() -> None:
    random = np.random.default_rng(0)
    expected = [random.integers(-1000, 1000, SIZE // 8) for _ in range(COUNT)]
    with vramx.oversubscribe(BUDGET, block="2MiB") as session, route(session):
        arrays = [cupy.asarray(each) for each in expected]
        for _ in range(2):
            for array, numbers in zip(arrays, expected):
                assert int(array.sum()) == int(numbers.sum())
                cupy.add(array, 1, out=array)
                np.add(numbers, 1, out=numbers)
        ordered = [cupy.sort(array) for array in arrays]
        for array, numbers in zip(ordered, expected):
            assert np.array_equal(cupy.asnumpy(array), np.sort(numbers))
        for array, numbers in zip(arrays, expected):
            assert np.array_equal(cupy.asnumpy(array), numbers)
        stats = session.stats()
    assert stats.peak_resident <= BUDGET
    assert stats.managed >= COUNT * SIZE
    assert stats.moved_out > 0


def test_an_array_comes_back_by_prefetch_and_pin() -> None:
    with vramx.oversubscribe(BUDGET, block="2MiB") as session, route(session):
        array = cupy.arange(SIZE // 8)
        where = [(array.data.ptr, array.nbytes)]
        session.evict(array)
        assert not session._core.on_card(where)
        assert int(array.sum()) == (SIZE // 8) * (SIZE // 8 - 1) // 2
        with session.pin(array):
            assert session._core.on_card(where)
            assert int(array[-1]) == SIZE // 8 - 1


def test_arrays_outlive_their_session_and_an_installation_can_be_undone() -> None:
    session = vramx.oversubscribe(BUDGET, block="2MiB")
    previous = install(session)
    try:
        array = cupy.arange(1000)
        assert session._core.owned([(array.data.ptr, array.nbytes)])
        session.close()
        with pytest.raises(vramx.SessionClosedError):
            cupy.empty(1000)
    finally:
        cupy.cuda.set_allocator(previous)
    assert np.array_equal(cupy.asnumpy(array), np.arange(1000))


def test_an_empty_array_and_a_refused_one() -> None:
    with vramx.oversubscribe(BUDGET, host_limit="128MiB") as session, route(session):
        assert cupy.empty((0, 3)).size == 0
        with pytest.raises(vramx.OutOfMemoryError):
            cupy.empty(2**30)
        assert cupy.ones(10).sum() == 10


def test_arrays_and_tensors_share_bytes() -> None:
    torch = pytest.importorskip("torch")
    with vramx.oversubscribe(BUDGET) as session, route(session):
        tensor = session.empty(1000, torch.float32)
        array = cupy.from_dlpack(tensor)
        array[:] = 3
        cupy.cuda.get_current_stream().synchronize()
        assert bool((tensor == 3).all())
        back = torch.as_tensor(cupy.arange(1000), device="cuda")
        assert session._core.owned([(back.data_ptr(), back.nbytes)])
        session.evict(back)
        assert int(back.sum()) == 499500
