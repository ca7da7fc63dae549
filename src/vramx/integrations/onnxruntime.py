"""vramx for ONNX Runtime: the CUDA provider's memory comes from a session.

The provider calls three C functions, ``void* alloc(size_t)``, ``void free(void*)`` and
``void empty_cache()``, whose addresses it takes as text in the options ``gpu_external_alloc``,
``gpu_external_free`` and ``gpu_external_empty_cache``. They name no stream, so the provider is told
to work on the default one, which is the one that vramx orders this memory by.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from vramx import _core
from vramx.integrations.cards import require_card
from vramx.session import Session

#: CUDA's name for the default stream where a null handle would mean none (cudaStreamLegacy).
_DEFAULT_STREAM = "1"


def provider_options(session: Session) -> dict[str, str]:
    """Give the options with which the CUDA provider takes its memory from a session.

    Weights and intermediate tensors are then tracked and evicted like any activation, and what is
    on the host is used over the link. The provider allocates on the thread that makes and runs an
    inference session: do both inside `route`.

    Parameters
    ----------
    session : Session
        An open session on a card.

    Returns
    -------
    dict of str to str
        For ``onnxruntime.InferenceSession(path, providers=[("CUDAExecutionProvider", options)])``;
        more options can be added.

    Raises
    ------
    ConfigError
        If the session has no real card.
    SessionClosedError
        If the session is closed.

    Examples
    --------
    >>> options = provider_options(session)  # doctest: +SKIP
    >>> with route(session):  # doctest: +SKIP
    ...     model = onnxruntime.InferenceSession(
    ...         "model.onnx", providers=[("CUDAExecutionProvider", options)]
    ...     )
    ...     outputs = model.run(None, inputs)
    """
    require_card(session, "ONNX Runtime's CUDA provider")
    alloc, free, empty_cache = _core.ort_addresses()
    return {
        "device_id": str(session.device.ordinal),
        "gpu_external_alloc": str(alloc),
        "gpu_external_free": str(free),
        "gpu_external_empty_cache": str(empty_cache),
        "user_compute_stream": _DEFAULT_STREAM,
    }


@contextlib.contextmanager
def route(session: Session) -> Iterator[None]:
    """Serve the calling thread's ONNX Runtime allocations from a session, for a scope.

    On another thread, or outside it, an allocation fails, unless `vramx.install` serves the
    process. What was allocated may be freed anywhere and later, also after the session is closed.

    Parameters
    ----------
    session : Session
        An open session on a card.

    Raises
    ------
    ConfigError
        If the session has no real card.
    SessionClosedError
        If the session is closed.
    """
    require_card(session, "ONNX Runtime's CUDA provider")
    core = session._core
    core.enter()
    try:
        yield
    except BaseException as error:
        failure = _core.last_failure()
        if failure and sys.version_info >= (3, 11):
            error.add_note(f"vramx: {failure}")
        raise
    finally:
        core.leave()
