"""Opening a session."""

from __future__ import annotations

import warnings
from typing import Any

from vramx.errors import NoDeviceError
from vramx.processes.publishing import publish
from vramx.session import Session
from vramx.session.absent import NoCard
from vramx.session.describing import describe_process
from vramx.session.options import SessionOptions
from vramx.session.policy import Policy, checked_policy
from vramx.units import Size


def oversubscribe(
    budget: Size | None = None,
    *,
    device: Any = None,
    backend: str = "auto",
    policy: str | Policy = "adaptive",
    block: Size = "32MiB",
    reserve: Size = "512MiB",
    host_limit: Size | None = None,
    on_missing: str = "error",
    on_unpinned: str = "warn",
    compress: str | None = None,
    host: str | None = None,
) -> Session:
    """Open a session: work inside it may use more memory than the budget, which is never exceeded.

    Parameters
    ----------
    budget : int, float or str, optional
        The most bytes on the card at once, as bytes or text such as ``"8GiB"``. By default, what
        is free on the card less `reserve`.
    device : int, str or torch.device, optional
        The card; 0 by default.
    backend : str
        ``"mapped"`` (managed modules' weights lie in pinned host memory, and on the card in plain
        memory that CUDA's virtual memory management maps; the rest lies in unified memory, or on a
        card without concurrent managed access on the card), ``"managed"`` (CUDA unified memory),
        ``"simulated"``, or ``"auto"``: mapped where the card supports it, otherwise managed, never
        simulated. `Session.report` says which.
    policy : str or Policy
        ``"adaptive"`` (records what a program repeats, and plans what is kept and what is fetched
        when; LRU where nothing is known), ``"lru"``, ``"mru"``, ``"clairvoyant"``, or an object
        with ``fetched(block)``, ``leased(block)``, ``evicted(block)`` and ``victim(evictable)``.
    block : int, float or str
        The unit of residency.
    reserve : int, float or str
        What a budget of ``None`` leaves to CUDA's context and libraries.
    host_limit : int, float or str, optional
        The most bytes of host memory to manage.
    on_missing : str
        ``"error"``, or ``"cpu"``: where there is no usable card, warn once and manage nothing.
    on_unpinned : str
        Where the system refuses to pin the host memory that ``"mapped"`` wants: ``"warn"``, which
        warns once with the size and the cost and uses memory that is not pinned, or ``"error"``.
    compress : str, optional
        Whether weights get packed copies, which hold the same bits in less room
        (0.68 of it for bfloat16): ``"auto"`` packs them once the managed bytes exceed the budget,
        be it one that is set later, ``"always"`` packs whatever can be, ``"never"`` does not. By
        default what the environment's ``VRAMX_COMPRESS`` says, else ``"auto"``. What is done with
        packed copies, and whether anything, the plan decides.
    host : str, optional
        What the host's memory holds of packed weights: ``"raw+packed"``, their raw bytes beside
        the packed copies, or ``"packed"``, which packs all that can be and gives the raw bytes back
        to the system. Then a use outside a module's call is leased by itself inside ``with
        session:``, and fails elsewhere. By default what the environment's ``VRAMX_HOST`` says, else
        ``"raw+packed"``.

    Returns
    -------
    Session
        The session, open; a context manager that closes it.

    Raises
    ------
    ConfigError
        If an argument is not allowed, or ``host="packed"`` where nothing can be packed.
    NoDeviceError
        If there is no usable card.
    OutOfMemoryError
        If a mapped card cannot give the budget now.
    """
    own = None if isinstance(policy, str) else checked_policy(policy)
    options = SessionOptions(
        budget=budget,
        device=device if device is None or isinstance(device, int) else str(device),
        backend=backend,
        policy=policy if isinstance(policy, str) else SessionOptions.policy,
        block=block,
        reserve=reserve,
        host_limit=host_limit,
        on_missing=on_missing,
        on_unpinned=on_unpinned,
        compress=compress,
        host=host,
    )
    try:
        session = Session(options, policy=own)
    except NoDeviceError as error:
        if on_missing == "error":
            raise
        warnings.warn(f"vramx manages nothing: {error}", RuntimeWarning, stacklevel=2)
        return Session(options, device=NoCard())
    publish(describe_process)
    return session
