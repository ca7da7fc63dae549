"""The queue, the monitor and the short benchmark on a real card."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import vramx
from vramx.bench import bench
from vramx.monitor import look

torch = pytest.importorskip("torch")
MIB = 2**20
LIMIT = 120


@pytest.fixture
def queue() -> Iterator[vramx.Queue]:
    with vramx.Queue("4GiB") as opened:
        yield opened


def hold(nbytes: int) -> int:
    return int(torch.ones(nbytes, dtype=torch.uint8, device="cuda")[-1])


def test_what_torch_allocates_is_measured(queue: vramx.Queue) -> None:
    first = queue.submit(hold, 300 * MIB)
    second = queue.submit(hold, 300 * MIB)
    assert first.result(LIMIT) == second.result(LIMIT) == 1
    assert first.measured is not None
    assert 300 * MIB <= first.measured == second.budget < 400 * MIB


def test_memory_that_really_runs_out_halves_the_batch(queue: vramx.Queue) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1024 * MIB) / total)
    try:
        job = queue.submit(lambda batch: hold(batch * 300 * MIB), footprint="1GiB", batch=8)
        assert job.result(LIMIT) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert job.batch == 2


@pytest.mark.parametrize("backend", ["managed", "mapped"])
def test_models_share_a_card_in_sessions_within_their_shares(
    queue: vramx.Queue, backend: str
) -> None:
    def work(seed: int) -> tuple[bool, int]:
        job = vramx.current_job()
        generator = torch.Generator().manual_seed(seed)
        model = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(16)))
        for parameter in model.parameters():
            parameter.data.normal_(generator=generator).div_(45)
        x = torch.randn(8, 2048, generator=generator).cuda()
        with torch.inference_mode():
            expected = model.cuda()(x)
            model.cpu()
            with job.oversubscribe(backend=backend) as session:
                session.manage(model)
                same = torch.equal(model(x), expected)
                return same, session.stats().peak_resident

    jobs = [queue.submit(work, seed, footprint="128MiB") for seed in range(4)]
    for job in jobs:
        same, peak = job.result(LIMIT)
        assert same
        assert peak <= job.budget == 128 * MIB


def test_the_monitor_knows_the_card_of_a_session() -> None:
    with vramx.oversubscribe("128MiB") as session:
        session.empty(MIB)
        snapshot = look()
        (seen,) = [each for process in snapshot.processes for each in process.sessions]
        assert seen.uuid in {card.uuid for card in snapshot.cards}
        assert seen.stats.budget == session.stats().budget


def test_the_short_benchmark_is_right_on_every_backend_that_there_is() -> None:
    found = bench(weights="1GiB", ratios=(2.0,))
    assert found.right
    assert {row.backend for row in found.rows} | set(found.unsupported) == {"mapped", "managed"}
    assert min(found.to_card, found.to_host) > 1e9
    assert all(row.moved >= found.weights - row.budget for row in found.rows)
