"""GPU tests: on a shared card managed memory stays under a limit that the card has free."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import pytest

LIMIT = 48 * 2**30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here, and skip where there is no card for torch."""
    reason = None
    torch = None
    try:
        import torch
    except ImportError:
        reason = "torch is not installed"
    if torch is not None and not torch.cuda.is_available():
        reason = "torch sees no CUDA device"
    for item in items:
        if "gpu" not in item.path.parts:
            continue
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _alone_on_the_card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of the processes that share the tests one at a time uses the card."""
    with (tmp_path_factory.getbasetemp().parent / "card.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def _managed_limit(monkeypatch: pytest.MonkeyPatch, _alone_on_the_card: None) -> Iterator[None]:
    import torch

    free, _ = torch.cuda.mem_get_info()
    if free < LIMIT:
        pytest.fail(f"the card has {free} bytes free; these tests need {LIMIT} to be safe")
    monkeypatch.setenv("VRAMX_MANAGED_LIMIT", str(LIMIT))
    yield
    torch.cuda.synchronize()
