"""As much of CuPy's interface as `vramx.integrations.cupy` uses, on the stand-in driver's memory.

Allocators, their scopes and the arrays' ownership follow CuPy's documentation.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1) -> None:
        if device_id < 0:
            raise AssertionError("the real one would ask the driver whose this is")
        self.ptr, self.size, self._owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem: UnownedMemory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset


class Array:
    """An array, as `cupy.empty` makes it."""

    def __init__(self, cuda: Cuda, shape: int | tuple[int, ...], dtype: Any) -> None:
        self.shape = (shape,) if isinstance(shape, int) else shape
        self.dtype = np.dtype(dtype)
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.data = cuda.get_allocator()(self.nbytes)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "strides": None,
            "version": 3,
        }

    def __getitem__(self, key: Any) -> Any:
        return self.host()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host()[key] = value

    def sum(self, dtype: Any) -> Any:
        return self.host().sum(dtype=dtype)

    def sort(self) -> None:
        self.host().sort()

    def host(self) -> Any:
        """A numpy view: the stand-in's memory can be read in place."""
        interface = self.__cuda_array_interface__
        view = types.SimpleNamespace(__array_interface__=interface, keep=self)
        return np.asarray(view)


class Cuda:
    UnownedMemory = UnownedMemory
    MemoryPointer = MemoryPointer

    def __init__(self) -> None:
        self._process: Callable[[int], Any] = self._refuse
        self._thread = threading.local()
        self.stream = 0
        self.device = 0
        self.runtime = types.SimpleNamespace(getDevice=lambda: self.device)

    def _refuse(self, size: int) -> Any:
        raise AssertionError(f"CuPy's own pool was asked for {size} bytes")

    def get_current_stream(self) -> Any:
        return types.SimpleNamespace(ptr=self.stream)

    def get_allocator(self) -> Callable[[int], Any]:
        return getattr(self._thread, "allocator", None) or self._process

    def set_allocator(self, allocator: Callable[[int], Any]) -> None:
        if getattr(self._thread, "allocator", None) is not None:
            raise ValueError("inside using_allocator")
        self._process = allocator

    @contextlib.contextmanager
    def using_allocator(self, allocator: Callable[[int], Any]) -> Iterator[None]:
        before = getattr(self._thread, "allocator", None)
        self._thread.allocator = allocator
        try:
            yield
        finally:
            self._thread.allocator = before


def make() -> types.ModuleType:
    """A fresh module named cupy."""
    module: Any = types.ModuleType("cupy")
    module.cuda = Cuda()
    module.float32, module.float64, module.arange = np.float32, np.float64, np.arange
    module.empty = lambda shape, dtype=np.float32: Array(module.cuda, shape, dtype)
    return module
