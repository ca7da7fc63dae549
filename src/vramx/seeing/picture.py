"""A residency picture: modules by time, and the bytes on the card below."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, BinaryIO

from vramx import _core
from vramx.errors import ConfigError
from vramx.seeing.timeline import STATES, Row, budgets, bytes_on_card, end_of, rows
from vramx.units import format_seconds, format_size
from vramx.writing import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What pictures can be saved as.
PICTURES = (".html", ".png")

#: By state; on the host is the ground, and packed is on the card in a packed copy alone. Apart in
#: lightness too, for those who see few colours.
COLOURS = {
    "on host": "#eceff1",
    "packed": "#a5d6a7",
    "resident": "#90caf9",
    "arriving": "#fb8c00",
    "leaving": "#8e24aa",
    "leased": "#0d47a1",
}

_INCHES_WIDE, _INCHES_A_ROW, _MOST_INCHES = 12.0, 0.16, 60.0


@dataclass(frozen=True)
class Picture:
    """What a picture shows; times in seconds from its left edge on."""

    title: str
    rows: list[Row]
    held: list[tuple[float, int]]
    budget: list[tuple[float, int]]
    began: float
    ended: float

    @property
    def colours(self) -> dict[str, str]:
        """By state; of packed copies where there are any."""
        packs = any(span.state == "packed" for row in self.rows for span in row.spans)
        return {name: colour for name, colour in COLOURS.items() if packs or name != "packed"}


def picture_of(log: _core.Log, card: str) -> Picture:
    """Gather what a picture shows.

    Parameters
    ----------
    log : _core.Log
        The events.
    card : str
        The card's name.

    Returns
    -------
    Picture
        The rows of all modules that had a state other than on the host, and the bytes.
    """
    found = [row for row in rows(log) if row.spans]
    held, budget = bytes_on_card(log), budgets(log)
    began = min([held[0][0], *(span.began for row in found for span in row.spans)])
    title = f"vramx on {card}" + (f", {log.lost} older events lost" if log.lost else "")
    ended = max(end_of(log), began + 1e-9)
    return Picture(title, found, held, budget, began, ended)


def draw(log: _core.Log, card: str, path: Path) -> None:
    """Draw a picture as the file's suffix says.

    Parameters
    ----------
    log : _core.Log
        The events.
    card : str
        The card's name.
    path : Path
        The file, ending in one of `PICTURES`.

    Raises
    ------
    ConfigError
        If matplotlib is lacking for a ``.png``.
    """
    picture = picture_of(log, card)
    with written_whole(path) as file:
        if path.name.endswith(".html"):
            file.write(_page(picture).encode())
        else:
            _plot(picture, file)


def _steps(series: list[tuple[float, int]], ended: float) -> tuple[list[float], list[int]]:
    times, values = [at for at, _ in series], [value for _, value in series]
    return [*times, ended], [*values, values[-1]]


def _page(picture: Picture) -> str:
    template = Template(Path(__file__).with_name("picture.html").read_text(encoding="utf-8"))
    micro = 1e6
    data = {
        "title": picture.title,
        "began": picture.began * micro,
        "ended": picture.ended * micro,
        "colours": picture.colours,
        "states": STATES,
        "rows": [
            {
                "name": row.name,
                "spans": [
                    [
                        STATES.index(span.state),
                        span.place,
                        span.places,
                        round(span.began * micro, 3),
                        round(span.ended * micro, 3),
                    ]
                    for span in row.spans
                ],
            }
            for row in picture.rows
        ],
        "held": [(at * micro, size) for at, size in picture.held],
        "budget": [(at * micro, size) for at, size in picture.budget],
    }
    # Inside a script element nothing may look like markup.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return template.substitute(data=text)


def _draw_rows(axes: Axes, picture: Picture) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    for state in STATES:
        corners = []
        for number, row in enumerate(picture.rows):
            for span in row.spans:
                if span.state != state:
                    continue
                height = 0.84 / span.places
                top = number - 0.42 + span.place * height
                bottom = top + height
                corners.append(
                    [
                        (span.began, top),
                        (span.ended, top),
                        (span.ended, bottom),
                        (span.began, bottom),
                    ]
                )
        axes.add_collection(
            PolyCollection(corners, facecolors=COLOURS[state], edgecolors="none"), autolim=False
        )
    axes.set_facecolor(COLOURS["on host"])
    axes.set_ylim(len(picture.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(picture.rows)), [row.name for row in picture.rows], fontsize=7)
    axes.set_title(picture.title, fontsize=10, loc="left", pad=22)
    axes.legend(
        handles=[Patch(color=colour, label=state) for state, colour in picture.colours.items()],
        ncols=len(picture.colours),
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        frameon=False,
        fontsize=8,
    )


def _plot(picture: Picture, file: BinaryIO) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise ConfigError(
            "a picture as .png needs matplotlib: pip install 'vramx[plot]', or save it as .html"
        ) from error
    height = min(_MOST_INCHES, 2.6 + _INCHES_A_ROW * len(picture.rows))
    figure = Figure(figsize=(_INCHES_WIDE, height), layout="constrained")
    FigureCanvasAgg(figure)
    modules, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [max(height - 1.6, 1.0), 1.2]}
    )
    _draw_rows(modules, picture)
    below.fill_between(*_steps(picture.held, picture.ended), step="post", color=COLOURS["resident"])
    below.step(
        *_steps(picture.budget, picture.ended), where="post", color="#c62828", label="budget"
    )
    below.legend(loc="lower right", fontsize=7, frameon=False)
    below.set_ylim(0, 1.1 * max(value for _, value in [*picture.budget, *picture.held, (0, 1)]))
    below.set_ylabel("on the card", fontsize=8)
    most = picture.budget[-1][1]
    below.set_yticks([most * quarter // 4 for quarter in range(5)])
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_size(value)))
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(max(value, 0.0))))
    below.tick_params(labelsize=7)
    below.set_xlim(picture.began, picture.ended)
    figure.savefig(file, dpi=100, format="png")
