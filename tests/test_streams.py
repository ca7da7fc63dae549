"""The present stream is asked of a C function where there is one, and is the one it tells."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import pytest

import vramx
from vramx import _core

FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p))


def address_of(function: Callable[..., int]) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def never(card: int) -> int:
    raise AssertionError(f"card {card} was asked about")


def test_a_c_function_is_asked_of_its_card() -> None:
    streams = {3: 2**40 + 8}

    @FUNCTION
    def tell(card: int, stream: ctypes._Pointer[ctypes.c_void_p]) -> int:
        stream[0] = streams[card]
        return 0

    present = _core.PresentStream(3, never, address_of(tell))
    assert present() == 2**40 + 8
    streams[3] = 16
    assert present() == 16


def test_a_c_function_that_fails_is_told() -> None:
    @FUNCTION
    def fail(*_: object) -> int:
        return 1

    present = _core.PresentStream(5, never, address_of(fail))
    with pytest.raises(vramx.DeviceError, match="present stream of card 5"):
        present()


def test_python_is_asked_where_there_is_none() -> None:
    asked = []

    def tell(card: int) -> int:
        asked.append(card)
        return 32

    present = _core.PresentStream(7, tell)
    gc.collect()
    assert (present(), asked) == (32, [7])
    with pytest.raises(AssertionError, match="card 7"):
        _core.PresentStream(7, never)()
