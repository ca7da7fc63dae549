"""A snapshot as tables, drawn by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramx.errors import Error
from vramx.units import format_size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from vramx.monitor.snapshot import ProcessView, SessionView, Snapshot


def require_rich() -> None:
    """Check that rich is there.

    Raises
    ------
    Error
        If it is not installed.
    """
    try:
        import rich  # noqa: F401
    except ImportError as error:
        raise Error(
            "tables are drawn by rich, which is not installed: pip install 'vramx[monitor]', or "
            "take --json"
        ) from error


def draw(snapshot: Snapshot) -> Group:
    """Draw a snapshot.

    Parameters
    ----------
    snapshot : Snapshot
        What to draw.

    Returns
    -------
    rich.console.Group
        Cards, sessions and queues.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = []
    parts.append(_cards(snapshot) if snapshot.cards else Text(f"no cards: {snapshot.no_cards}"))
    parts += [_sessions(process) for process in snapshot.processes]
    if not snapshot.processes:
        parts.append(Text("no process of this user has a session open"))
    if snapshot.queues:
        parts.append(_queues(snapshot))
    parts += [Text(f"process {pid} gives no answer: {why}") for pid, why in snapshot.silent.items()]
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # A command of many lines would push what is below it off the screen.
    line = Text(title, no_wrap=True, overflow="ellipsis")
    table = Table(
        title=line, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    for place, column in enumerate(columns):
        if place == 0:
            table.add_column(column, overflow="fold", min_width=12)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _cards(snapshot: Snapshot) -> Table:
    table = _table("Cards", "card", "memory", "free", "held without a session")
    known = {process.pid for process in snapshot.processes}
    for card in snapshot.cards:
        others = [nbytes for pid, nbytes in card.processes.items() if pid not in known]
        table.add_row(
            card.name,
            format_size(card.total),
            format_size(card.free),
            f"{format_size(sum(others))} in {len(others)}",
        )
    return table


def _sessions(process: ProcessView) -> Table:
    table = _table(
        f"{process.pid}  {process.command}",
        "session", "budget", "resident", "managed", "in/s", "link/s", "out/s", "stalled", "hits",
    )  # fmt: skip
    for session in process.sessions:
        table.add_row(
            f"{session.number} {session.card}",
            format_size(session.stats.budget),
            format_size(session.stats.resident),
            format_size(session.stats.managed),
            *_rates(session),
        )
    return table


def _rates(session: SessionView) -> list[str]:
    if (rates := session.rates) is None:
        return ["-"] * 5
    return [
        format_size(rates.moved_in),
        format_size(rates.crossed_in),
        format_size(rates.moved_out),
        f"{rates.stalled:.0%}",
        "-" if rates.hits is None else f"{rates.hits:.0%}",
    ]


def _queues(snapshot: Snapshot) -> Table:
    table = _table("Queues", "card", "process", "job", "claims", "state")
    for card, members in snapshot.queues.items():
        for member in sorted(members, key=lambda each: each.ticket):
            jobs = [(each, "runs") for each in member.running]
            if member.waiting is not None:
                jobs.append((member.waiting, "is next"))
            for job, state in jobs:
                table.add_row(card, str(member.pid), job.name, format_size(job.nbytes), state)
    return table
