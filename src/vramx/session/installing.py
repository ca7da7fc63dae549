"""Serving a whole process, for programs that cannot be edited."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from vramx import _core
from vramx.errors import ConfigError, NoDeviceError
from vramx.importing import when_imported
from vramx.session import Session
from vramx.session.opening import oversubscribe
from vramx.units import Size

_installed: list[Session] = []
#: Scopes that last as long as the process.
_scopes = contextlib.ExitStack()


def serve_process(session: Session) -> None:
    """Serve what the process does with torch and ONNX Runtime, once it imports them.

    Parameters
    ----------
    session : Session
        A session that lasts as long as the process.
    """
    when_imported("onnxruntime", lambda: _serve_onnxruntime(session))
    if session.device.computes_on_host:
        return
    _core.set_process_core(session._core)
    when_imported("torch", lambda: _serve_torch(session))


def _serve_onnxruntime(session: Session) -> None:
    from vramx.integrations.onnxruntime import serve

    _scopes.enter_context(serve(session))


def _serve_torch(session: Session) -> None:
    import torch

    from vramx.integrations.torch import make_torch_allocator

    if not torch.backends.cuda.is_built():
        return
    if session.device.managed_access:
        make_torch_allocator()()
        return
    warnings.warn(
        f"torch's allocations are not in the budget: {session.device.name} has no concurrent "
        "managed access",
        RuntimeWarning,
        stacklevel=2,
    )


def install(
    budget: Size | None = None,
    *,
    device: Any = None,
    policy: str = "adaptive",
    block: Size = "32MiB",
    reserve: Size = "512MiB",
    host_limit: Size | None = None,
) -> Session:
    """Make vramx torch's CUDA allocator for the whole process, on all threads.

    ONNX Runtime's inference sessions are served too, those that are made from now on.

    Call it before torch takes CUDA memory. Torch then has no cache of its own, and what depends on
    that cache is missing: memory statistics, and ``torch.backends.cudnn.benchmark``, which asks for
    them.

    Parameters
    ----------
    budget, device, policy, block, reserve, host_limit
        As `oversubscribe`; the policy is one of the named ones.

    Returns
    -------
    Session
        A session that lasts as long as the process; modules can be managed in it.

    Raises
    ------
    ConfigError
        If CUDA memory has been taken already, or vramx is installed already.
    NoDeviceError
        If there is no usable card.
    """
    from vramx.integrations.torch import make_torch_allocator

    if _installed:
        raise ConfigError("vramx is installed in this process already; use the session it gave")
    if not isinstance(policy, str):
        raise ConfigError("a process is served by a named policy, not by an object")
    swap = make_torch_allocator()
    try:
        session = oversubscribe(
            budget,
            device=device,
            backend="managed",
            policy=policy,
            block=block,
            reserve=reserve,
            host_limit=host_limit,
        )
    except NoDeviceError as error:
        raise NoDeviceError(
            f"vramx.install() serves allocations that nobody announces, from managed memory alone: "
            f"{error}"
        ) from error
    try:
        swap()
    except BaseException:
        session.close()
        raise
    _core.set_process_core(session._core)
    _installed.append(session)
    when_imported("onnxruntime", lambda: _serve_onnxruntime(session))
    return session
