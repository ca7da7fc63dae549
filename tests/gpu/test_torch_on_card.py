"""What must hold with torch on a real card."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import vramx
from vramx import _core
from vramx.cards.nvml import NvmlCard

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from vramx.integrations.torch.internals import layout, own_calls, streams  # noqa: E402

MIB = 2**20


def stack(layers: int = 16, width: int = 1024) -> nn.Sequential:
    """A linear stack of `layers` × 4 MiB."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


class UNet(nn.Module):
    """A small U-Net with long skips, whose activations outweigh its weights."""

    def __init__(self, channels: int = 32, depth: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = [channels * 2**i for i in range(depth + 1)]
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:])
        )
        self.up = nn.ModuleList(
            nn.Conv2d(a + b, a, 3, padding=1) for a, b in zip(widths, widths[1:])
        )
        self.norm = nn.ModuleList(nn.BatchNorm2d(a) for a in widths[:-1])
        self.last = nn.Conv2d(channels, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.first(x)]
        for down in self.down:
            skips.append(torch.relu(down(skips[-1])))
        y = skips.pop()
        for up, norm in zip(reversed(self.up), reversed(self.norm)):
            y = nn.functional.interpolate(y, scale_factor=2.0)
            y = torch.relu(norm(up(torch.cat([skips.pop(), y], 1))))
        return self.last(y)


OpenSession = Callable[..., vramx.Session]


@pytest.fixture(params=["managed", "mapped"])
def session(request: pytest.FixtureRequest) -> OpenSession:
    return functools.partial(vramx.oversubscribe, backend=request.param, block="2MiB")


def test_the_present_stream_is_asked_of_torch_s_c_function() -> None:
    assert streams._c_function() != 0
    present = streams.present_stream(torch.device("cuda", 0))
    assert present() == torch.cuda.current_stream().cuda_stream
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        assert present() == side.cuda_stream != 0
    assert present() == torch.cuda.current_stream().cuda_stream


def test_this_torch_s_hooks_are_found() -> None:
    module = nn.Linear(1, 1)
    assert own_calls.own_call(module)[0] is module


def test_weights_from_a_file_give_the_same_bits_and_end_on_the_cpu(
    session: OpenSession, tmp_path: Path
) -> None:
    expected, x = stack().cuda(), torch.randn(64, 1024, device="cuda")
    save_file(expected.state_dict(), path := tmp_path / "stack.safetensors")
    with torch.device("meta"):
        module = stack()
    out = expected(x)  # for which libraries have allocated more than the budget below
    with torch.inference_mode(), session(budget="16MiB") as s:
        s.load(module, path)
        for _ in range(3):
            assert torch.equal(module(x), out)
        assert s.stats().moved_out == 0
        assert s.stats().peak_resident <= 16 * MIB
    for tensor, same in zip(module.parameters(), expected.parameters()):
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, same.cpu())


@pytest.mark.parametrize("policy", ["adaptive", "lru", "mru", "clairvoyant"])
def test_outputs_are_the_same_bits_under_a_quarter_of_the_weights(
    session: OpenSession, policy: str
) -> None:
    x = torch.randn(64, 1024, device="cuda")
    with torch.no_grad():
        expected = stack().cuda()(x)
        with session("16MiB", policy=policy) as s:
            model = s.manage(stack())
            outputs = [model(x) for _ in range(4)]
            stats = s.stats()
    assert all(torch.equal(out, expected) for out in outputs)
    assert stats.peak_resident <= stats.budget
    assert stats.moved_in > 0


def test_clean_weights_are_never_written_back(session: OpenSession) -> None:
    x = torch.randn(64, 1024, device="cuda")
    with torch.no_grad(), session("24MiB", policy="lru") as s:
        model = s.manage(stack())
        with s.pin(torch.empty(0)):
            pass
        for _ in range(3):
            model(x)
        weights_dropped = s.stats().dropped
        s.evict(model)
    assert weights_dropped > 0
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_a_module_larger_than_the_budget_is_read_over_the_link(session: OpenSession) -> None:
    torch.manual_seed(0)
    big = nn.Linear(4096, 4096)
    x = torch.randn(8, 4096, device="cuda")
    with torch.no_grad():
        expected = copy.deepcopy(big).cuda()(x)
        with session("8MiB") as s:
            out = s.manage(big)(x)
            assert torch.equal(out, expected)
            assert s.stats().over_link > 0
            assert s.stats().peak_resident <= s.stats().budget


@pytest.mark.parametrize("managed", [True, False])
def test_activations_beyond_the_budget_keep_their_bits(session: OpenSession, managed: bool) -> None:
    x = torch.randn(1, 3, 512, 512)
    with torch.no_grad(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        plain = UNet().cuda().eval()
        expected = plain(x.cuda())
        peak = torch.cuda.max_memory_allocated()
        model = UNet().eval() if managed else plain
        with session("32MiB") as s:
            if managed:
                s.manage(model)
            out = model(x.cuda())
            same = torch.equal(out, expected)
            stats = s.stats()
    assert same
    assert peak > stats.budget
    assert stats.peak_resident <= stats.budget


def test_batch_norm_statistics_survive_eviction(session: OpenSession) -> None:
    x = torch.randn(4, 3, 64, 64, device="cuda")
    plain = UNet().cuda().train()
    managed = UNet().train()
    with torch.no_grad(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        with session("6MiB") as s:
            s.manage(managed)
            for _ in range(3):
                plain(x)
                managed(x)
                s.evict(managed)
    for (name, a), (_, b) in zip(plain.named_buffers(), managed.named_buffers()):
        assert torch.equal(a.cpu(), b), name


@pytest.mark.filterwarnings("ignore:.*session.pin")
@pytest.mark.parametrize("check", ["", "1"])
def test_what_torch_counts_as_written_between_passes_is_used(
    session: OpenSession, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    monkeypatch.setenv("VRAMX_CHECK", check)
    model, x = stack(8), torch.randn(4, 1024, device="cuda")
    stock = copy.deepcopy(model).cuda()
    with torch.no_grad(), session("16MiB", block="2MiB") as s:
        s.manage(model)
        for turn in range(8):
            assert torch.equal(model(x), stock(x))
            for place in {turn % 8, (3 * turn) % 8}:
                model[place].weight.mul_(1.5)
                stock[place].weight.mul_(1.5)


def test_checking_mode_finds_uses_outside_a_call(
    session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMX_CHECK", "1")
    x = torch.randn(8, 1024, device="cuda")
    with torch.no_grad():
        plain = stack(8).cuda()
        expected = plain(x)
        with session("8MiB") as s:
            model = s.manage(stack(8))
            for _ in range(5):
                assert torch.equal(model(x), expected)
            assert s.stats().unleased_accesses == 0
            warns = pytest.warns(RuntimeWarning, match=r"session\.pin")
            with warns if s.device.kind == "mapped" else contextlib.nullcontext():
                for each, other in zip(model, plain):
                    assert torch.equal(each.weight, other.weight)
            assert s.stats().unleased_accesses == len(model)


def test_this_torch_keeps_counts_of_writes_where_they_are_found() -> None:
    assert layout.find_layout()


def test_writes_to_weights_survive(session: OpenSession) -> None:
    x = torch.randn(8, 1024, device="cuda")
    plain, managed = stack(4).cuda(), stack(4)
    with torch.no_grad(), session("8MiB") as s:
        s.manage(managed)
        managed(x)
        for parameter in plain.parameters():
            parameter.add_(0.5)
        for parameter in managed.parameters():
            parameter.add_(0.5)
        assert torch.equal(managed(x), plain(x))
        state = {k: v.cpu() * 2 for k, v in plain.state_dict().items()}
        managed.load_state_dict(state)
        plain.load_state_dict(state)
        assert torch.equal(managed(x), plain(x))
        managed[0].weight.data.mul_(0.5)
        plain[0].weight.data.mul_(0.5)
        s.written(managed[0])
        s.evict(managed)
        assert torch.equal(managed(x), plain(x))
    for a, b in zip(plain.parameters(), managed.parameters()):
        assert torch.equal(a.cpu(), b)


class Growing(nn.Linear):
    """A layer that changes its weights as it is called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.mul_(1.25)
        return super().forward(x)


def test_writes_in_a_call_are_seen_by_all_that_reads_the_weights(session: OpenSession) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(*(Growing(1024, 1024) for _ in range(4))).requires_grad_(False)
    managed = copy.deepcopy(plain)
    plain.cuda()
    x = torch.randn(8, 1024, device="cuda")
    with torch.no_grad(), session("8MiB") as s:
        s.manage(managed)
        for _ in range(3):
            assert torch.equal(managed(x), plain(x))
            for mine, other in zip(managed, plain):
                assert torch.equal(mine.weight, other.weight)
                assert torch.equal(mine.weight.cpu(), other.weight.cpu())
    for mine, other in zip(managed, plain):
        assert torch.equal(mine.weight, other.weight.cpu())


def test_weights_used_outside_their_calls_are_right_wherever_they_are(session: OpenSession) -> None:
    x = torch.randn(8, 1024, device="cuda")
    plain = stack(6).cuda()
    with torch.no_grad(), session("12MiB") as s:
        managed = s.manage(stack(6))
        transposed = [layer.weight.t() for layer in managed]
        for _ in range(3):
            assert torch.equal(managed(x), plain(x))
            for mine, other, view in zip(managed, plain, transposed):
                expected = nn.functional.linear(x, other.weight, other.bias)
                assert torch.equal(nn.functional.linear(x, mine.weight, mine.bias), expected)
                assert torch.equal(torch.addmm(mine.bias, x, view), expected)
            for name, tensor in managed.state_dict().items():
                assert torch.equal(tensor.cpu(), plain.state_dict()[name].cpu())
                assert torch.equal(tensor.clone(), plain.state_dict()[name])
        s.evict(managed)
        s.prefetch(managed)
        assert float(sum(p.sum() for p in managed.parameters())) == float(
            sum(p.sum() for p in plain.parameters())
        )
        copied = copy.deepcopy(managed)
        assert torch.equal(copied(x), plain(x))


def test_weights_made_in_inference_mode_keep_their_bits(session: OpenSession) -> None:
    x = torch.randn(8, 1024, device="cuda")
    with torch.inference_mode(), session("12MiB") as s:
        plain, managed = stack(6).cuda(), s.manage(stack(6))
        for _ in range(3):
            assert torch.equal(managed(x), plain(x))
            for layer in (*managed, *plain):
                layer.weight.mul_(0.5)


class Fork(nn.Module):
    """Two weights of 1 MiB, the second of which is used on a stream of its own."""

    def __init__(self, side: torch.cuda.Stream) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(512, 512, bias=False) for _ in range(2))
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        main = torch.cuda.current_stream()
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            z = self.second(y)
        main.wait_stream(self.side)
        z.record_stream(main)
        return x + z.tanh()


def test_parts_of_whole_modules_may_be_used_on_other_streams(session: OpenSession) -> None:
    side = torch.cuda.Stream()
    plain, model = (nn.Sequential(*(Fork(side) for _ in range(48))) for _ in range(2))
    model.load_state_dict(plain.state_dict())
    x = torch.randn(64, 512, device="cuda")
    with torch.no_grad():
        expected = plain.cuda()(x)  # which also makes the workspaces of both streams
    with torch.no_grad(), session("64MiB") as s:
        s.manage(model)
        for _ in range(4):
            assert torch.equal(model(x), expected)
        stats = s.stats()
        # Half of the parts' uses are in a lease of their own, besides each whole module's.
        assert {row.uses for row in s.modules()} == {4, 8}
    assert stats.moved_in > 96 * MIB
    assert stats.peak_resident <= stats.budget


def test_tensors_outlive_their_scope(session: OpenSession) -> None:
    with session("8MiB") as s:
        kept = torch.arange(8 * MIB, device="cuda", dtype=torch.int32)
        mine = s.empty((MIB,), torch.float32).fill_(3)
    del s
    gc.collect()
    with session("8MiB"):
        other = torch.full((8 * MIB,), 7, device="cuda", dtype=torch.int32)
    assert torch.equal(kept.cpu(), torch.arange(8 * MIB, dtype=torch.int32))
    assert bool((mine == 3).all())
    assert bool((other == 7).all())
    del kept, mine, other
    gc.collect()
    with session("8MiB"):
        pass


def test_memory_goes_back_when_all_is_over(session: OpenSession) -> None:
    gc.collect()
    with session("8MiB"):
        pass
    before = (_core.managed_bytes(), _core.pinned_bytes())
    with session("8MiB") as s:
        model = s.manage(stack(4))
        out = model(torch.randn(8, 1024, device="cuda"))
    del out, s
    gc.collect()
    with session("8MiB"):
        pass
    assert (_core.managed_bytes(), _core.pinned_bytes()) == before


def test_scopes_nest(session: OpenSession) -> None:
    with session("16MiB") as outer, session("8MiB") as inner:
        a = torch.ones(2 * MIB, device="cuda")
        assert inner.stats().managed > 0
        assert outer.stats().managed == 0
    with session("16MiB") as outer:
        with session("8MiB"):
            pass
        b = torch.ones(2 * MIB, device="cuda")
        assert outer.stats().managed > 0
    assert bool((a == b).all())


def test_a_scope_inside_another_gives_its_memory_back_as_it_ends(session: OpenSession) -> None:
    with session(256 * MIB) as outer:
        kept = torch.full((4 * MIB,), 7, dtype=torch.uint8, device="cuda")
        before = torch.cuda.memory_reserved()
        for _ in range(3):
            with outer.route():
                inside = torch.ones(100 * MIB, dtype=torch.uint8, device="cuda")
                assert torch.cuda.memory_reserved() >= before + 100 * MIB
                assert int(inside[-1]) == 1
                del inside
            assert torch.cuda.memory_reserved() < before + 100 * MIB
            assert int(kept[-1]) == 7


def test_what_one_model_leaves_in_torch_s_cache_is_no_loss_to_the_next(
    session: OpenSession,
) -> None:
    painter, model = UNet(), stack(32)
    picture, x = torch.randn(1, 3, 768, 768, device="cuda"), torch.randn(8, 1024, device="cuda")

    def moved(s: vramx.Session) -> list[tuple[str, int, int]]:
        """Of the model alone: the network's next pass may be fetched for meanwhile."""
        rows = [row for row in s.modules() if not row.name.startswith("UNet")]
        return [(row.name, row.moved_in, row.moved_out) for row in rows]

    with torch.no_grad():
        torch.backends.cudnn.deterministic = True
        expected = copy.deepcopy(painter).cuda()(picture), copy.deepcopy(model).cuda()(x)
        gc.collect()
        torch.cuda.empty_cache()
        with session(480 * MIB, block="2MiB") as s:
            s.manage(painter), s.manage(model)
            painter(picture)
            # What that leaves, by the libraries that it runs, and the other's 128 MiB do not fit.
            budget = torch.cuda.memory_reserved() + 96 * MIB
            s.set_budget(budget - budget % (2 * MIB))
            for _ in range(3):
                painted = painter(picture)
                assert torch.equal(painted, expected[0])
                del painted
                assert torch.equal(model(x), expected[1])
                before = moved(s)
                for _ in range(2):
                    assert torch.equal(model(x), expected[1])
                assert moved(s) == before
            assert s.stats().peak_resident <= max(480 * MIB, s.stats().budget)


def test_scopes_beyond_count_do_no_harm(session: OpenSession) -> None:
    with session("64MiB") as s:
        for turn in range(300):
            with s.route():
                kept = torch.full((1024,), turn, device="cuda")
            assert int(kept[-1]) == turn


def test_an_exception_in_forward_leaves_the_session_usable(session: OpenSession) -> None:
    class Failing(nn.Linear):
        fail = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.fail:
                raise ValueError("on purpose")
            return super().forward(x)

    model = Failing(256, 256)
    x = torch.randn(4, 256, device="cuda")
    with torch.no_grad(), session("4MiB") as s:
        s.manage(model)
        with pytest.raises(ValueError, match="on purpose"):
            model(x)
        assert s.stats().leased == 0
        model.fail = False
        out = model(x)
        assert torch.equal(out, nn.functional.linear(x, model.weight, model.bias))


def test_reaching_the_managed_limit_is_torch_s_out_of_memory_with_vramx_s_figures(
    session: OpenSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VRAMX_MANAGED_LIMIT", "64MiB")
    with pytest.raises(torch.OutOfMemoryError) as caught, session("8MiB"):
        torch.empty(512 * MIB, dtype=torch.uint8, device="cuda")
    if sys.version_info >= (3, 11):
        assert "VRAMX_MANAGED_LIMIT" in "".join(caught.value.__notes__)


def test_compiled_blocks_are_leased_as_one(session: OpenSession) -> None:
    x = torch.randn(32, 1024, device="cuda")
    with torch.no_grad():
        plain = nn.Sequential(*(torch.compile(block) for block in stack(8).cuda()))
        expected = plain(x)
        with session("16MiB") as s:
            model = nn.Sequential(*(torch.compile(block) for block in stack(8)))
            s.manage(model)
            outputs = [model(x) for _ in range(3)]
        assert all(torch.equal(out, expected) for out in outputs)


def test_a_compiled_whole_keeps_its_bits(session: OpenSession) -> None:
    x = torch.randn(32, 1024, device="cuda")
    with torch.no_grad():
        expected = torch.compile(stack(8).cuda())(x)
        with session("16MiB") as s:
            model = s.manage(torch.compile(stack(8)))
            assert torch.equal(model(x), expected)
        with session("16MiB") as s:
            after = torch.compile(s.manage(stack(8)))
            assert torch.equal(after(x), expected)


def test_threads_share_a_session(session: OpenSession) -> None:
    x = torch.randn(16, 1024, device="cuda")
    with torch.no_grad():
        expected = stack().cuda()(x)
        results: list[torch.Tensor] = []
        with session("12MiB") as s:
            model = s.manage(stack())

            def work() -> None:
                with torch.no_grad(), s.route(), torch.cuda.stream(torch.cuda.Stream()):
                    for _ in range(3):
                        out = model(x)
                    torch.cuda.current_stream().synchronize()
                    results.append(out)

            torch.cuda.synchronize()
            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(results) == 3
            assert all(torch.equal(out, expected) for out in results)


def run_apart(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_install_serves_a_program_that_knows_nothing_of_vramx() -> None:
    out = run_apart(
        "import vramx\n"
        "session = vramx.install('64MiB', block='2MiB')\n"
        "import torch\n"
        "xs = [torch.full((16 << 20,), i, device='cuda', dtype=torch.uint8) for i in range(8)]\n"
        "assert all(int(x.sum()) == i * (16 << 20) for i, x in enumerate(xs))\n"
        "y = torch.nn.Conv2d(3, 8, 3).cuda()(torch.randn(1, 3, 64, 64, device='cuda'))\n"
        "y.sum().backward()\n"
        "stats = session.stats()\n"
        "assert stats.peak_resident <= stats.budget < stats.managed\n"
        "del xs\n"
        "try:\n"
        "    vramx.install()\n"
        "except vramx.ConfigError as error:\n"
        "    print('refused:', error)\n"
    )
    assert "installed in this process already" in out


def test_install_refuses_once_memory_has_been_taken() -> None:
    out = run_apart(
        "import torch, vramx\n"
        "x = torch.ones(1, device='cuda')\n"
        "try:\n"
        "    vramx.install('64MiB')\n"
        "except vramx.ConfigError as error:\n"
        "    print('refused:', error)\n"
    )
    assert "has been taken" in out


def test_a_card_that_is_not_there_is_named() -> None:
    with pytest.raises(vramx.NoDeviceError, match="no CUDA device 99"):
        vramx.oversubscribe("1GiB", device=99)


def test_a_budget_of_none_is_what_nvml_says_is_free() -> None:
    with vramx.oversubscribe(reserve="1GiB") as s:
        free, total = torch.cuda.mem_get_info()
        assert 0 < s.stats().budget <= total - 2**30
        assert abs(s.stats().budget - (free - 2**30)) < 2**30


@pytest.mark.parametrize("backend", ["managed", "mapped"])
def test_a_watched_budget_gives_nvml_what_the_reserve_asks_for(backend: str) -> None:
    x = torch.randn(8, 8192, device="cuda")
    with torch.no_grad(), vramx.oversubscribe("4GiB", backend=backend) as s:
        model = s.manage(stack(16, 8192))  # 4 GiB and its biases
        expected = model(x)
        torch.cuda.synchronize()
        before = NvmlCard(s.device.uuid).free()
        # As if others had taken a GiB of what was free.
        with s.watch_budget(reserve=before + 2**30, least="1GiB", every=1e6) as watcher:
            watcher.look()
            assert s.stats().budget <= 3 * 2**30 + 32 * MIB
            if backend == "mapped":  # of unified memory the driver keeps what nobody asks for
                assert NvmlCard(s.device.uuid).free() - before > 2**30 - 128 * MIB
            settled = s.stats().budget
            watcher.look()  # the driver's own tables may have taken a few MiB meanwhile
            assert 0 <= settled - s.stats().budget <= 32 * MIB
            assert torch.equal(model(x), expected)
        with s.watch_budget(reserve="512MiB", most="4GiB", every=1e6) as watcher:
            watcher.look()
            assert s.stats().budget == 4 * 2**30
            assert torch.equal(model(x), expected)
