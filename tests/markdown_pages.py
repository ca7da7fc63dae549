"""What is in a Markdown page that can be checked: blocks of code, links, words in backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

#: A comment before a block says that it is not run, and why.
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
_LIKE_CODE = re.compile(r"`+")


class Block(NamedTuple):
    """A fenced block: its language, text and first line, and what the page says of running it."""

    page: Path
    language: str
    text: str
    line: int
    not_run: str | None
    output: str | None

    @property
    def place(self) -> str:
        """Where it stands, as editors take it."""
        return f"{self.page}:{self.line}"


class Page:
    """A page.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8"))

    def blocks(self) -> Iterator[Block]:
        """Go through the fenced blocks; a ``text`` block right after Python is its output."""
        for place, token in enumerate(self._tokens):
            if token.type != "fence" or token.map is None:
                continue
            after = self._tokens[place + 1] if place + 1 < len(self._tokens) else None
            printed = after is not None and after.type == "fence" and after.info.strip() == "text"
            yield Block(
                page=self.path,
                language=token.info.strip(),
                text=token.content,
                line=token.map[0] + 2,
                not_run=self._reason_before(place),
                output=after.content if printed and after is not None else None,
            )

    def _reason_before(self, place: int) -> str | None:
        before = self._tokens[place - 1] if place else None
        if before is None or before.type != "html_block":
            return None
        found = _NOT_RUN.search(before.content)
        return None if found is None else found[1]

    def _inline(self) -> Iterator[tuple[Token, int]]:
        for token in self._tokens:
            for child in token.children or ():
                yield child, (token.map or [0])[0] + 1

    def links(self) -> Iterator[tuple[str, int]]:
        """Go through the targets of links and pictures, with their lines."""
        for child, line in self._inline():
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str):
                yield target, line

    def code(self) -> Iterator[tuple[str, int]]:
        """Go through what stands in backticks, with the lines of its paragraphs."""
        for child, line in self._inline():
            if child.type == "code_inline":
                yield child.content, line

    def code_in_headings(self) -> Iterator[tuple[str, int]]:
        """Go through what stands in backticks in headings, with their lines."""
        for heading, inline in zip(self._tokens, self._tokens[1:]):
            for child in (inline.children or ()) if heading.type == "heading_open" else ():
                if child.type == "code_inline":
                    yield child.content, (heading.map or [0])[0] + 1

    def anchors(self) -> set[str]:
        """Tell the anchors of its headings, as GitHub makes them."""
        return {
            re.sub(r"[^\w\- ]", "", _LIKE_CODE.sub("", inline.content).lower()).replace(" ", "-")
            for heading, inline in zip(self._tokens, self._tokens[1:])
            if heading.type == "heading_open"
        }
