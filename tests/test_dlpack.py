"""A session's memory shared with other libraries by DLPack, and theirs known to a session."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import vramx
from vramx import _core

BLOCK = 64 * 2**10

OpenSession = Callable[..., vramx.Session]


class Foreign:
    """An array of a library that tells its place by DLPack alone."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __dlpack__(self, **asked: Any) -> Any:
        return self._of.__dlpack__(**asked)

    def __dlpack_device__(self) -> Any:
        return self._of.__dlpack_device__()


class Elsewhere(Foreign):
    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("it is on another planet")


def test_memory_is_shared_and_kept_by_who_took_it(open_session: OpenSession) -> None:
    torch = pytest.importorskip("torch")
    session = open_session(4 * BLOCK)
    memory = session._core.empty(BLOCK, 0)
    with session.pin(array := np.from_dlpack(memory)):
        tensor = torch.from_dlpack(memory)
        assert array.nbytes == tensor.nbytes == BLOCK
        assert array.ctypes.data == tensor.data_ptr() == memory.address
        tensor.fill_(7)
        assert (array == 7).all()
        managed = session.stats().managed
        del memory, array
        gc.collect()
        assert (tensor == 7).all()
        assert session.stats().managed == managed


def test_what_cannot_be_given_is_refused(open_session: OpenSession) -> None:
    memory = open_session()._core.empty(BLOCK, 0)
    assert memory.__dlpack_device__() == (1, 0)
    for asked in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError, match="shared by DLPack"):
            memory.__dlpack__(**asked)
    fine: list[dict[str, Any]] = [
        {"copy": False},
        {"copy": None, "dl_device": None, "max_version": (1, 0), "stream": None},
        {"dl_device": (1, 0)},
    ]
    for asked in fine:
        assert memory.__dlpack__(**asked) is not None


class Capsule(Foreign):
    """What a library takes that wants a capsule at once."""

    def __init__(self, memory: _core.Memory, *how: Any) -> None:
        super().__init__(memory)
        self._how = how

    def __dlpack__(self, **_: Any) -> Any:
        return self._of.tensor(*self._how)


def test_memory_is_viewed_in_another_shape_and_type_if_these_take_its_size(
    open_session: OpenSession,
) -> None:
    session = open_session(4 * BLOCK)
    memory = session._core.empty(BLOCK, 0)
    with session.pin(memory):
        array = np.from_dlpack(Capsule(memory, (BLOCK // 64, 32), 2, 16))
        assert (array.shape, array.dtype) == ((BLOCK // 64, 32), np.float16)
        assert array.ctypes.data == memory.address
    with pytest.raises(vramx.ConfigError, match="of 64 bytes cannot view a memory of 65536"):
        memory.tensor((32,), 2, 16)


def test_verbs_take_what_tells_its_place_by_dlpack(open_session: OpenSession) -> None:
    torch = pytest.importorskip("torch")
    session = open_session(4 * BLOCK)
    tensor = session.empty((BLOCK // 4,), torch.float32)
    foreign = Foreign(tensor)
    where = [(tensor.data_ptr(), tensor.nbytes)]
    session.evict(foreign)
    assert not session._core.on_card(where)
    with session.pin(foreign):
        assert session._core.on_card(where)
    with pytest.raises(vramx.ConfigError, match="another planet"):
        session.prefetch(Elsewhere(tensor))
    with pytest.raises(vramx.ConfigError, match="is not a tensor"):
        session.prefetch(Foreign)


def test_memory_itself_is_known_to_its_session(open_session: OpenSession) -> None:
    session = open_session(4 * BLOCK)
    memory = session._core.reserve([BLOCK], _core.Purpose.WEIGHTS)[0]
    session.prefetch(memory)
    with session.pin(memory):
        assert session._core.on_card([(memory.address, BLOCK)])
