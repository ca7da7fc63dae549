"""The stream that the calling thread gives a card's work to, as torch tells it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from vramx import _core


def _c_function() -> int:
    """Return the address of torch's C function that tells it; 0 where torch has none."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"
    try:
        loaded = ctypes.CDLL(str(library), mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
        function = loaded.aoti_torch_get_current_cuda_stream
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


#: Whether torch's C function is there, where torch has a card to use it for.
FOUND_STREAM = not torch.backends.cuda.is_built() or _c_function() != 0


def present_stream(device: torch.device) -> _core.PresentStream:
    """Make what tells a card's present stream.

    Parameters
    ----------
    device : torch.device
        The card; the simulated one's tensors are the CPU's, and its only stream is 0.
    """
    if device.type == "cpu":
        return _core.PresentStream(0, lambda _: 0)
    return _core.PresentStream(device.index, torch._C._cuda_getCurrentRawStream, _c_function())
