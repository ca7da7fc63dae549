"""ONNX Runtime's CUDA provider, whose memory comes from a session.

The provider calls three C functions, ``void* alloc(size_t)``, ``void free(void*)`` and
``void empty_cache()``, whose addresses it takes as text in the options ``gpu_external_alloc``,
``gpu_external_free`` and ``gpu_external_empty_cache``. They name no stream. With them the provider
makes no stream of its own: everything that it launches and copies goes to the legacy default
stream, which is the one that vramx orders this memory by. Options that would give it another one
are refused.

ONNX Runtime runs a model on the CPU, and prints why, where the CUDA provider cannot be made or
fails. Here that is an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vramx import _core
from vramx.errors import ConfigError, DeviceError, Error, OutOfMemoryError
from vramx.integrations.cards import require_card
from vramx.session import Session

CUDA = "CUDAExecutionProvider"
_INSTALL = (
    "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'; and import torch, "
    "or call onnxruntime.preload_dlls(), before the first session is made"
)
#: Options that name memory or streams of the program's own, whatever their value.
_TAKEN = (
    "user_compute_stream",
    "has_user_compute_stream",
    "gpu_external_alloc",
    "gpu_external_free",
    "gpu_external_empty_cache",
)


def provider_options(session: Session, **options: Any) -> dict[str, str]:
    """Give the options with which the CUDA provider takes its memory from a session.

    Parameters
    ----------
    session : Session
        An open session on a card.
    **options
        More options of the CUDA provider, such as ``cudnn_conv_algo_search="HEURISTIC"``. A
        ``gpu_mem_limit`` does nothing beside an allocator of the program's: the budget limits.

    Returns
    -------
    dict of str to str
        For ``onnxruntime.InferenceSession(path, providers=[("CUDAExecutionProvider", options)])``.

    Raises
    ------
    ConfigError
        If the session has no real card, or an option cannot be had with its memory.
    SessionClosedError
        If the session is closed.
    """
    require_card(session, "ONNX Runtime's CUDA provider")
    ordinal = session.device.ordinal
    _refuse_conflicts(options, ordinal)
    alloc, free, empty_cache = _core.ort_addresses()
    return {
        **{name: str(value) for name, value in options.items()},
        "device_id": str(ordinal),
        "gpu_external_alloc": str(alloc),
        "gpu_external_free": str(free),
        "gpu_external_empty_cache": str(empty_cache),
    }


def _refuse_conflicts(options: dict[str, Any], ordinal: int) -> None:
    for name in _TAKEN:
        if name in options:
            raise ConfigError(
                f"{name} cannot be given: the provider's memory is the session's, and its work is "
                "on the default stream, by which that memory is ordered; leave it out"
            )
    card = options.get("device_id", ordinal)
    if str(card) != str(ordinal):
        raise ConfigError(
            f"device_id {card!r} is not the session's card, which is {ordinal}; leave it out, or "
            f"open the session with device={card}"
        )
    if _is_on(options.get("enable_cuda_graph", False)):
        raise ConfigError(
            "enable_cuda_graph cannot be had with a session's memory: a graph keeps addresses and "
            "replays without telling vramx what it uses; leave it out"
        )
    if not _is_on(options.get("do_copy_in_default_stream", True)):
        raise ConfigError(
            "do_copy_in_default_stream=0 cannot be had with a session's memory, which is ordered "
            "by the default stream; leave it out"
        )


def _is_on(value: Any) -> bool:
    return str(value).lower() in ("1", "true")


def require_provider(version: str, available: Sequence[str]) -> None:
    """Check that the installed package has the CUDA provider.

    Parameters
    ----------
    version : str
        The package's.
    available : sequence of str
        The providers that it has.

    Raises
    ------
    ConfigError
        If it has others only.
    """
    if CUDA not in available:
        raise ConfigError(
            f"onnxruntime {version} has no {CUDA}, only {', '.join(available)}: {_INSTALL}"
        )


def require_cuda(model: Any) -> None:
    """Check that an inference session was made for the CUDA provider.

    Parameters
    ----------
    model : onnxruntime.InferenceSession
        The inference session, made with `provider_options`.

    Raises
    ------
    DeviceError
        If its first provider is another one.
    """
    providers = model.get_providers()
    if providers[:1] != [CUDA]:
        raise DeviceError(
            f"ONNX Runtime made this session for {', '.join(providers)} and not for {CUDA}: "
            f"{_why_not_loaded()}"
        )


def _why_not_loaded() -> str:
    """Say what keeps the provider's library from being loaded, which onnxruntime only logs."""
    package = Path(sys.modules["onnxruntime"].__file__ or "").parent
    try:
        ctypes.CDLL(os.fspath(package / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"{error}. {_INSTALL}"
    return (
        "its library can be loaded, so the provider refused the card or an option; onnxruntime "
        "wrote why to stderr"
    )


@contextlib.contextmanager
def route(session: Session) -> Iterator[None]:
    """Serve the calling thread's ONNX Runtime allocations from a session, for a scope.

    The provider allocates on the thread that makes or runs an inference session. On another thread,
    or outside, an allocation fails, unless `vramx.install` serves the process. What was allocated
    may be freed anywhere and later, also after the session is closed.

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


@contextlib.contextmanager
def told_by_the_provider(session: Session, options: dict[str, str]) -> Iterator[None]:
    """Serve a scope that makes an inference session, and say of what the provider failed.

    Parameters
    ----------
    session : Session
        An open session on a card.
    options : dict of str to str
        Of `provider_options`.

    Raises
    ------
    DeviceError
        If the provider cannot be made, with what it says.
    OutOfMemoryError
        If the session could not give it its memory.
    """
    with route(session):
        # A failure is kept until an allocation succeeds: one from before this is not this one's.
        _allocate_and_free(options)
        try:
            yield
        except Error:
            raise
        except Exception as error:
            if failure := _core.last_failure():
                raise OutOfMemoryError(
                    f"the session cannot give ONNX Runtime's CUDA provider its memory: {failure}"
                ) from error
            if isinstance(error, (ValueError, RuntimeError)):  # what onnxruntime falls back for
                raise DeviceError(
                    f"ONNX Runtime's CUDA provider cannot be made: {error}"
                ) from error
            raise


@contextlib.contextmanager
def told_by_a_run(session: Session) -> Iterator[None]:
    """Say of a run that failed for want of the session's memory that it did.

    Parameters
    ----------
    session : Session
        The session.

    Raises
    ------
    OutOfMemoryError
        If the session could not give a run its memory.
    Exception
        What else a run raises.
    """
    try:
        yield
    except Error:
        raise
    except Exception as error:
        # Inputs are looked at before memory is asked for: an earlier run's failure is not its own.
        before = type(error).__name__ == "InvalidArgument"
        failure = "" if session.device.computes_on_host or before else _core.last_failure()
        if failure:
            raise OutOfMemoryError(
                f"the session cannot give a run of ONNX Runtime its memory: {failure}"
            ) from error
        raise


def _allocate_and_free(options: dict[str, str]) -> None:
    alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(int(options["gpu_external_alloc"]))
    free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(options["gpu_external_free"]))
    free(alloc(1))
