"""Layers whose weights are quantised, in half the memory that they need, on a real card."""

from __future__ import annotations

from typing import Any

import pytest

import vramx

torch = pytest.importorskip("torch")

from benchmarks import quantised, workloads  # noqa: E402

WEIGHTS = 128 * 2**20


@pytest.fixture(scope="module", params=list(quantised.KINDS))
def decoder(request: pytest.FixtureRequest) -> Any:
    """Blocks of one kind on the card."""
    try:
        return workloads.quantised(request.param, WEIGHTS, tokens=1, width=1024).module
    except (ImportError, OSError) as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("tokens", [1, 64])
@pytest.mark.parametrize("backend", ["mapped", "managed"])
@torch.no_grad()
def test_quantised_layers_have_the_same_bits_in_half_their_memory(
    decoder: Any, backend: str, tokens: int
) -> None:
    x = torch.randn(1, tokens, 1024, device="cuda").bfloat16()
    expected = decoder(x)
    budget = quantised.bytes_held(decoder) // 2
    with vramx.oversubscribe(budget, backend=backend, block="2MiB") as session:
        session.manage(decoder)
        outs = [decoder(x) for _ in range(6)]
        stats = session.stats()
    assert [torch.equal(out, expected) for out in outs] == [True] * 6
    assert stats.peak_resident <= budget
    assert stats.moved_in > 0
    assert torch.equal(decoder(x), expected)
