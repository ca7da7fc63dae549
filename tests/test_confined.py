"""On a card without concurrent managed access activations stay, and weights come and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import vramx

torch = pytest.importorskip("torch")

BLOCK = 64 * 1024


@pytest.fixture
def session() -> Iterator[vramx.Session]:
    with (
        vramx.simulate(managed_access=False),
        vramx.oversubscribe(8 * BLOCK, backend="simulated", block=BLOCK) as opened,
    ):
        yield opened


def network() -> torch.nn.Module:
    """Weights of twelve blocks, and buffers that torch writes to uncounted."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for _ in range(12):
        layers += [torch.nn.Linear(127, 127), torch.nn.BatchNorm1d(127)]
    return torch.nn.Sequential(*layers)


def test_a_network_that_writes_its_buffers_runs_as_it_does_alone(session: vramx.Session) -> None:
    alone, managed = network(), session.manage(network())
    x = torch.randn(16, 127)
    for _ in range(3):
        assert torch.equal(managed(x), alone(x))
    managed.eval(), alone.eval()
    for _ in range(3):
        assert torch.equal(managed(x), alone(x))
    assert session.stats().peak_resident <= 8 * BLOCK
    assert session.stats().moved_in > 0
    session.unmanage(managed)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(managed.state_dict()[name], tensor), name


def test_activations_stay_while_weights_stream_beside_them(session: vramx.Session) -> None:
    managed = session.manage(network().eval())
    kept = session.empty(3 * BLOCK // 4)
    with session.pin(kept):
        kept.fill_(3)
    x = torch.randn(16, 127)
    expected = network().eval()(x)
    for _ in range(4):
        assert torch.equal(managed(x), expected)
    assert (kept == 3).all()
    assert session.stats().moved_out == 0
    assert session.stats().peak_resident <= 8 * BLOCK


def test_an_array_beyond_the_budget_is_refused_and_leaves_all_as_it_was(
    session: vramx.Session,
) -> None:
    kept = session.empty(5 * BLOCK // 4)
    with pytest.raises(vramx.OutOfMemoryError, match="activations do not exceed it") as raised:
        session.empty(BLOCK)
    assert raised.value.leased == 5 * BLOCK
    del kept
    session.empty(BLOCK)


def test_activations_that_are_to_leave_are_refused_by_name(session: vramx.Session) -> None:
    kept = session.empty(BLOCK // 4)
    module = session.manage(network())
    with pytest.raises(vramx.ConfigError, match="activations stay on it"):
        session.evict(kept)
    with pytest.raises(vramx.ConfigError, match="activations stay on it"):
        session.advise(kept, vramx.Advice.PREFERRED_HOST)
    session.evict(module)
    session.advise(module, vramx.Advice.PREFERRED_HOST)
    session.evict([module, kept])


def test_a_budget_below_what_stays_is_refused(session: vramx.Session) -> None:
    kept = session.empty(3 * BLOCK // 4)
    with pytest.raises(vramx.OutOfMemoryError, match="activations and buffers, which stay"):
        session.set_budget(BLOCK)
    assert session.stats().budget == 8 * BLOCK
    del kept
    session.set_budget(BLOCK)


def test_weights_that_only_unified_memory_holds_are_refused_by_name(
    session: vramx.Session,
) -> None:
    with torch.inference_mode():
        module = torch.nn.Sequential(torch.nn.Linear(8, 8))
    weight = module[0].weight
    with pytest.raises(vramx.ConfigError, match=r"0\.weight, 0\.bias were made in inference mode"):
        session.manage(module)
    assert module[0].weight is weight
    assert not session.manages(module)


def test_managed_memory_is_not_simulated_without_access_to_it() -> None:
    with pytest.raises(vramx.ConfigError, match="concurrent managed access"):
        vramx.simulate(memory="managed", managed_access=False)
