"""What notebooks show."""

from __future__ import annotations

import html


def preformatted(text: str) -> str:
    """Return text as HTML that shows it as it is laid out, and nothing else, whatever it holds."""
    return f"<pre>{html.escape(text)}</pre>"


class Report(str):
    """A text for people, which notebooks show as it is laid out."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return preformatted(self)
