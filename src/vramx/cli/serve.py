"""``vramx serve``: jobs over HTTP."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from vramx.cli.session import session_options
from vramx.errors import ConfigError
from vramx.service.settings import Limits, ServiceSettings
from vramx.session.options import SessionOptions

_LIMITS = {each.name: each.default for each in fields(Limits)}
_SIZES = ("upload", "stored")


def _folders(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    return {name: Path(path) for name, path in _pairs(values)}


def _limits(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Limits:
    given: dict[str, Any] = {}
    for name, value in _pairs(values):
        if name not in _LIMITS:
            raise click.BadParameter(f"there is no limit {name}; there are {', '.join(_LIMITS)}")
        if name not in _SIZES and not value.isdecimal():
            raise click.BadParameter(f"{name} {value!r} is not a whole number")
        given[name] = value if name in _SIZES else int(value)
    return Limits(**given)


def _pairs(values: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [value.partition("=") for value in values]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise click.BadParameter(f"{name!r} is not NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder of its own, for uploads, results and the list of jobs; made if need be.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder of checkpoints and descriptions, whose models clients may name.",
)
@click.option(
    "--folder",
    "folders",
    multiple=True,
    callback=_folders,
    metavar="NAME=PATH",
    help="A folder whose files clients may name; may be repeated.",
)
@click.option(
    "--host", "address", default="127.0.0.1", show_default=True, help="The address to listen on."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the token that clients show; needed where others can reach the address.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="The most jobs that run at once; one without a budget has this part of the whole.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    callback=_limits,
    metavar="NAME=VALUE",
    help="What clients may use up: "
    + ", ".join(f"{name}={value}" for name, value in _LIMITS.items())
    + " by default; may be repeated.",
)
@session_options
@click.pass_context
def serve(
    ctx: click.Context, /, session: SessionOptions, token_file: Path | None, **options: Any
) -> None:
    """Take jobs over HTTP, run them within a budget, and keep them.

    A server that ends, by a signal or a kill, goes on with its jobs when it is started again. The
    simulated card is used only when `--backend simulated` asks for it.
    """
    settings = ServiceSettings(token=_token(token_file), session=session, **options)
    try:
        from vramx.service.server import serve as serve_until_a_signal
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'vramx[service]'") from error

    def ready(address: str) -> None:
        click.echo(f"vramx serves at {address}")

    try:
        serve_until_a_signal(settings, ready)
    except KeyboardInterrupt:
        ctx.exit(130)


def _token(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token cannot be read from {path}: {error}") from error
