"""What doors to other libraries ask of a session."""

from __future__ import annotations

from vramx.errors import ConfigError
from vramx.session import Session


def require_card(session: Session, library: str) -> None:
    """Check that a session is open and has a card on which a library can compute.

    Parameters
    ----------
    session : Session
        The session.
    library : str
        Who wants to use it, for the message.

    Raises
    ------
    ConfigError
        If its card is simulated, or it has none.
    SessionClosedError
        If it is closed.
    """
    if not session.active:
        raise ConfigError(
            f"{library} computes on a card and this session has none (on_missing='cpu'); compute "
            "on the CPU without it"
        )
    session._usable()
    if session.device.computes_on_host:
        raise ConfigError(
            f'{library} computes on a real card; open the session with backend="auto"'
        )
