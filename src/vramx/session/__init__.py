"""Sessions: a budget on a card, and what is kept inside it."""

from vramx.session.session import Range, Session, current_session, open_sessions

__all__ = ["Range", "Session", "current_session", "open_sessions"]
