"""Services in this process, on the simulated card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _package in ("av", "fastapi", "httpx", "prometheus_client", "skimage", "torch", "uvicorn"):
    pytest.importorskip(_package)

from . import serving  # noqa: E402


@pytest.fixture(scope="session")
def portal() -> Iterator[Any]:
    """A thread with an event loop."""
    with serving.loop() as portal:
        yield portal


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and media; read only."""
    folder = tmp_path_factory.mktemp("stock")
    serving.write_models(folder / "models")
    serving.write_media(folder / "media")
    return folder


@pytest.fixture
def folder(tmp_path: Path, stocked: Path) -> Path:
    """A folder of its own with the same models and media."""
    for name in ("models", "media"):
        (tmp_path / name).symlink_to(stocked / name)
    return tmp_path


@pytest.fixture(scope="module")
def shared(
    portal: Any, stocked: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, serving.Client]]:
    """A service that the tests of a file share, and a client of it."""
    settings = serving.settings(stocked, data=tmp_path_factory.mktemp("data"))
    with serving.serving(settings, portal) as (service, client):
        yield service, client


@pytest.fixture
def client(shared: tuple[Any, serving.Client]) -> serving.Client:
    """A client of the shared service."""
    return shared[1]


@pytest.fixture
def media(stocked: Path) -> Path:
    """Pictures and clips."""
    return stocked / "media"
