"""What notebooks show of sessions, reports and plans is their text, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import torch
from torch import nn

import vramx

HOSTILE = "<img src=x onerror=alert(1)>&amp;"


def shown(thing: Any) -> str:
    """The text of what a notebook shows, which may be one preformatted element and no more."""
    tags, texts = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, _: Any) -> None:
            tags.append(tag)

        def handle_data(self, data: str) -> None:
            texts.append(data)

    reader = Reader(convert_charrefs=True)
    reader.feed(thing._repr_html_())
    reader.close()
    assert tags == ["pre"]
    return "".join(texts)


def test_notebooks_show_sessions_reports_and_plans_as_text(
    open_session: Callable[..., vramx.Session], linears: Callable[..., nn.Sequential]
) -> None:
    layers = nn.Sequential(*linears(8))
    network = nn.Module()
    network.add_module(HOSTILE, layers)
    network.forward = layers.forward
    session = open_session()
    session.manage(network)
    with torch.inference_mode():
        for _ in range(6):
            network(torch.ones(1, 128))
    report, plan = session.report(), session.plan()
    assert HOSTILE in report
    assert shown(report) == report
    assert shown(session) == session.report()
    assert plan is not None
    assert shown(plan) == "\n".join(plan.lines())
    session.close()
    assert shown(session) == session.report()
