"""Serving a whole process, for programs that cannot be edited."""

from __future__ import annotations

from typing import Any

from vramx import _core
from vramx.errors import ConfigError, NoDeviceError
from vramx.session import Session
from vramx.session.opening import oversubscribe
from vramx.units import Size

_installed: list[Session] = []


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
    return session
