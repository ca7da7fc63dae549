"""Weights that go from a file straight into a session's blocks."""

from __future__ import annotations

import copy
import gc
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramx
from forkserver import run_forked

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Weights = dict[str, "torch.Tensor"]

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DTYPES = (*FLOATS, torch.int64, torch.uint8, torch.bool)
#: Each example opens a session of its own, on machines that may be slow.
RELAXED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
#: In files whose lengths differ from one writing to the next.
PLACES = st.integers(0, 2**18)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


class Tree(nn.Module):
    """Parameters and buffers of any shape and type, some of them tied."""

    def __init__(self, tensors: list[tuple[tuple[int, ...], Any, bool]], ties: list[int]) -> None:
        super().__init__()
        for place, (shape, dtype, is_buffer) in enumerate(tensors):
            tensor = torch.zeros(shape, dtype=dtype)
            if len(shape) == 4 and place % 2:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            if is_buffer:
                self.register_buffer(f"t{place}", tensor)
            else:
                trained = dtype.is_floating_point
                self.register_parameter(f"t{place}", nn.Parameter(tensor, requires_grad=trained))
        self.tied = nn.Module()
        for name, place in enumerate(ties):
            if isinstance(tied := getattr(self, f"t{place % len(tensors)}"), nn.Parameter):
                self.tied.register_parameter(f"u{name}", tied)


@st.composite
def trees(draw: Any) -> tuple[Callable[[], Tree], Weights]:
    """A module, and a state dict for it in other types, shuffled."""
    dtypes = st.sampled_from(DTYPES)
    kinds = st.lists(st.tuples(SHAPES, dtypes, st.booleans()), min_size=1, max_size=6)
    tensors, ties = draw(kinds), draw(st.lists(st.integers(0, 9), max_size=2))
    seed = draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in Tree(tensors, ties).state_dict().items():
        kept = draw(st.booleans())
        dtype = (
            tensor.dtype
            if kept or not tensor.is_floating_point()
            else draw(st.sampled_from(FLOATS))
        )
        values = torch.randint(-40, 40, tensor.shape, generator=generator)
        state[name] = (values / 8 if dtype.is_floating_point else values).to(dtype)
    names = [*state]
    random.Random(seed).shuffle(names)
    return lambda: Tree(tensors, ties), {name: state[name] for name in names}


def as_safetensors(weights: Weights, folder: Path) -> Path:
    save_file(weights, path := folder / "a.safetensors")
    return path


def as_shards(weights: Weights, folder: Path) -> Path:
    files: dict[str, str] = {}
    for number in range(3):
        part = {name: weights[name] for name in [*weights][number::3]}
        save_file(part, folder / f"model-{number}-of-3.safetensors")
        files |= dict.fromkeys(part, f"model-{number}-of-3.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return path


def as_checkpoint(weights: Weights, folder: Path) -> Path:
    torch.save(weights, path := folder / "a.pth")
    return path


def as_wrapped_checkpoint(weights: Weights, folder: Path) -> Path:
    torch.save({"epoch": 3, "params": {}, "params_ema": weights}, path := folder / "b.ckpt")
    return path


def as_old_checkpoint(weights: Weights, folder: Path) -> Path:
    torch.save(weights, path := folder / "c.pt", _use_new_zipfile_serialization=False)
    return path


WRITERS = (as_safetensors, as_shards, as_checkpoint, as_wrapped_checkpoint, as_old_checkpoint)


def raw(tensor: Any) -> tuple[Any, ...]:
    """All of a tensor, and its exact bytes."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return (tensor.dtype, tensor.shape, tensor.stride(), bytes(flat.view(torch.uint8).numpy()))


def contents(module: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: raw(tensor) for name, tensor in module.state_dict().items()}


@settings(RELAXED, max_examples=60)
@given(tree=trees(), write=st.sampled_from(WRITERS), on_meta=st.booleans())
def test_a_loaded_module_is_that_of_load_state_dict_bit_for_bit(
    open_session: OpenSession,
    tmp_path_factory: pytest.TempPathFactory,
    tree: tuple[Callable[[], Tree], Weights],
    write: Callable[[Weights, Path], Path],
    on_meta: bool,
) -> None:
    make, weights = tree
    path = write(weights, tmp_path_factory.mktemp("weights"))
    expected = make()
    expected.load_state_dict(weights)
    with torch.device("meta" if on_meta else "cpu"):
        module = make()
    with open_session() as session:
        assert session.load(module, path) is module
        with session.pin(module):
            assert contents(module) == contents(expected)
    assert contents(module) == contents(expected)
    for (name, tensor), twin in zip(module.named_parameters(), expected.parameters(), strict=True):
        assert (tensor.device.type, tensor.requires_grad) == ("cpu", twin.requires_grad), name
    assert len([*module.parameters()]) == len([*expected.parameters()])  # ties are still ties


@settings(RELAXED, max_examples=30)
@given(tree=trees(), write=st.sampled_from(WRITERS), on_meta=st.booleans())
def test_with_the_files_types_a_module_is_what_is_in_the_file(
    open_session: OpenSession,
    tmp_path_factory: pytest.TempPathFactory,
    tree: tuple[Callable[[], Tree], Weights],
    write: Callable[[Weights, Path], Path],
    on_meta: bool,
) -> None:
    make, weights = tree
    path = write(weights, tmp_path_factory.mktemp("weights"))
    with torch.device("meta" if on_meta else "cpu"):
        module = make()
    with open_session() as session:
        session.load(module, path, dtype="file")
    tensors = module.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if tensor.numel() and sum(each is tensor for each in tensors.values()) == 1:
            assert raw(tensor)[:2] == raw(weights[name])[:2], name
            assert torch.equal(tensor, weights[name]), name


@pytest.fixture
def saved(linears: Callable[..., nn.Sequential], tmp_path: Path) -> tuple[nn.Sequential, Path]:
    """A network, and a file of its weights."""
    network = linears(6, seed=5)
    return network, as_safetensors(dict(network.state_dict()), tmp_path)


def on_meta(network: nn.Module) -> nn.Module:
    """The same network without its bytes."""
    return copy.deepcopy(network).to("meta")


def test_a_loaded_module_runs_within_its_budget_with_the_same_bits(
    open_session: OpenSession, saved: tuple[nn.Sequential, Path]
) -> None:
    network, path = saved
    module, x = on_meta(network), torch.ones(2, 128)
    with open_session(2 * BLOCK) as session, torch.inference_mode():
        session.load(module, path, name="net")
        for _ in range(3):
            assert torch.equal(module(x), network(x))
        stats = session.stats()
        assert stats.peak_resident <= 2 * BLOCK
        assert stats.moved_out == 0
        assert stats.unleased_accesses == 0
        assert "net" in session.report()
    assert torch.equal(module(x), network(x))


def test_modules_that_keep_lists_of_their_parameters_use_the_loaded_ones(
    open_session: OpenSession, tmp_path: Path
) -> None:
    expected = nn.LSTM(8, 8, num_layers=2).eval()
    path = as_safetensors(dict(expected.state_dict()), tmp_path)
    with torch.device("meta"):
        module = nn.LSTM(8, 8, num_layers=2).eval()
    x = torch.ones(3, 1, 8)
    with open_session() as session, torch.inference_mode():
        session.load(module, path)
        assert torch.equal(module(x)[0], expected(x)[0])


class Tied(nn.Module):
    """A language model's ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_tied_weight_may_be_in_the_file_once_and_stays_tied(
    open_session: OpenSession, tmp_path: Path, device: str
) -> None:
    weights = {"embed.weight": torch.rand(20, 8)}
    path = as_safetensors(weights, tmp_path)
    with torch.device(device):
        module = Tied()
    with open_session() as session:
        session.load(module, path)
        assert module.head.weight is module.embed.weight
    assert torch.equal(module.head.weight, weights["embed.weight"])


def test_views_of_one_storage_are_loaded_and_stay_views(
    open_session: OpenSession, tmp_path: Path
) -> None:
    module = nn.Module()
    base = torch.zeros(6, 4)
    module.whole, module.part = nn.Parameter(base), nn.Parameter(base[2:4])
    values = torch.rand(6, 4)
    path = as_safetensors({"whole": values, "part": values[2:4].clone() + 1}, tmp_path)
    with open_session() as session:
        session.load(module, path)
    assert torch.equal(module.part, values[2:4] + 1)
    assert torch.equal(module.whole[2:4], module.part)
    assert module.whole.untyped_storage().data_ptr() == module.part.untyped_storage().data_ptr()


def snapshot(module: nn.Module) -> list[tuple[Any, ...]]:
    """The very tensors of a module, and their bytes."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [
        (n, id(t), t.data_ptr() if not t.is_meta else 0, None if t.is_meta else raw(t))
        for n, t in tensors
    ]


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.update({"1.weight": torch.ones(7, 3)}), "nothing was changed: size mismatch"),
        (lambda w: w.pop("2.weight"), "1 tensor is not in the file: 2.weight"),
        (lambda w: w.update(x=torch.ones(2)), "1 tensor is not in the module: x"),
        (lambda w: w.update({"1.weight": torch.ones(7, 3)}), "size mismatch for 1.weight"),
        (
            lambda w: w.update({f"y{n}": torch.ones(1) for n in range(9)}),
            "y0, y1, y2, y3, y4 and 4 more",
        ),
    ],
)
def test_what_does_not_fit_is_one_error_that_names_it_and_nothing_has_changed(
    open_session: OpenSession,
    linears: Callable[..., nn.Sequential],
    tmp_path: Path,
    device: str,
    change: Callable[[Weights], Any],
    said: str,
) -> None:
    module = linears(4).to(device)
    weights = dict(linears(4, seed=2).state_dict())
    change(weights)
    path = as_safetensors(weights, tmp_path)
    before = snapshot(module)
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match="does not fit Sequential") as caught:
            session.load(module, path)
        assert said in str(caught.value)
        assert snapshot(module) == before
        assert session.stats().managed == 0


def test_all_that_does_not_fit_is_in_one_error(
    open_session: OpenSession, linears: Callable[..., nn.Sequential], tmp_path: Path
) -> None:
    weights = {"0.weight": torch.ones(3), "9.weight": torch.ones(3)}
    with open_session() as session, pytest.raises(vramx.ConfigError) as caught:
        session.load(linears(2), as_safetensors(weights, tmp_path))
    for said in ("size mismatch for 0.weight", "in the module: 9.weight", "in the file: 1.weight"):
        assert said in str(caught.value)


def test_not_strictly_the_rest_stays_as_it_is(
    open_session: OpenSession, linears: Callable[..., nn.Sequential], tmp_path: Path
) -> None:
    module, other = linears(2), linears(2, seed=8)
    kept = module[1].weight.detach().clone()
    weights = {"0.weight": other[0].weight.detach(), "x": torch.ones(1)}
    with open_session() as session:
        session.load(module, path := as_safetensors(weights, tmp_path), strict=False)
        with pytest.raises(vramx.ConfigError, match=r"not in the file: 1\.weight"):
            session.load(on_meta(linears(2)), path, strict=False)
    assert torch.equal(module[0].weight, other[0].weight)
    assert torch.equal(module[1].weight, kept)


def test_a_meta_buffer_that_no_file_holds_is_named_with_what_to_do(
    open_session: OpenSession, tmp_path: Path
) -> None:
    def rotary() -> nn.Module:
        module = nn.Module()
        module.inner = nn.Linear(4, 4, bias=False)
        module.inner.register_buffer("frequencies", torch.arange(4.0), persistent=False)
        return module

    path = as_safetensors({"inner.weight": torch.rand(4, 4)}, tmp_path)
    with torch.device("meta"):
        module = rotary()
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match=r"inner\.frequencies.*first"):
            session.load(module, path)
        module.inner.frequencies = torch.arange(4.0)
        session.load(module, path)
    assert torch.equal(module.inner.frequencies, torch.arange(4.0))


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_memory_that_cannot_be_had_leaves_the_module_as_it_was(
    open_session: OpenSession, saved: tuple[nn.Sequential, Path], device: str
) -> None:
    network, path = saved
    module = on_meta(network) if device == "meta" else network
    before = snapshot(module)
    with open_session(host_limit=4 * BLOCK) as session:
        with pytest.raises(vramx.OutOfMemoryError):
            session.load(module, path)
        assert snapshot(module) == before
        assert session.stats().managed == 0


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_failure_between_batches_leaves_the_module_as_it_was(
    open_session: OpenSession,
    saved: tuple[nn.Sequential, Path],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
) -> None:
    monkeypatch.setattr("vramx.integrations.torch.moving._BATCH", BLOCK)
    network, path = saved
    module = on_meta(network) if device == "meta" else network
    before = snapshot(module)
    with open_session(host_limit=4 * BLOCK) as session:
        with pytest.raises(vramx.OutOfMemoryError):
            session.load(module, path)
        assert snapshot(module) == before
        gc.collect()  # the error's traceback held what was had by then
        assert session.stats().managed == 0
        session.manage(nn.Linear(8, 8))  # the session is of use still


@pytest.mark.parametrize("write", WRITERS)
@settings(RELAXED, max_examples=25)
@given(data=st.data())
def test_a_damaged_file_is_a_typed_error_or_loads_and_the_session_goes_on(
    open_session: OpenSession,
    linears: Callable[..., nn.Sequential],
    tmp_path: Path,
    write: Callable[[Weights, Path], Path],
    data: st.DataObject,
) -> None:
    path = write(dict(linears(2, seed=4).state_dict()), tmp_path)
    whole = path.read_bytes()
    if data.draw(st.booleans(), "truncate"):
        damaged = whole[: data.draw(PLACES, "length") % len(whole)]
    else:
        at = data.draw(PLACES, "place") % min(len(whole), 4096)
        damaged = whole[:at] + data.draw(st.binary(min_size=1, max_size=64)) + whole[at:]
    path.write_bytes(damaged)
    module = linears(2)
    before = snapshot(module)
    with open_session() as session:
        try:
            session.load(module, path)
        except vramx.ConfigError as error:
            assert str(path.parent) in str(error)
            assert snapshot(module) == before
        session.manage(linears(1))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.safetensors.index.json", "a.zip"])
def test_a_file_that_is_none_is_named(
    open_session: OpenSession, linears: Callable[..., nn.Sequential], tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    with open_session() as session:
        for content in (None, b"", b"not weights at all"):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(vramx.ConfigError) as caught:
                session.load(linears(1), path)
            assert name in str(caught.value)


def test_a_checkpoint_with_names_that_are_no_text_is_refused(
    open_session: OpenSession, linears: Callable[..., nn.Sequential], tmp_path: Path
) -> None:
    path = as_checkpoint({0: torch.ones(2), "0.weight": torch.ones(128, 128)}, tmp_path)
    with open_session() as session, pytest.raises(vramx.ConfigError, match="does not fit"):
        session.load(linears(1), path)


def test_what_cannot_be_loaded_into_is_refused(
    open_session: OpenSession, saved: tuple[nn.Sequential, Path]
) -> None:
    network, path = saved
    with open_session() as session:
        with pytest.raises(vramx.ConfigError, match="dict is not a torch"):
            session.load({}, path)
        with pytest.raises(vramx.ConfigError, match="dtype 'half'"):
            session.load(on_meta(network), path, dtype="half")
        with pytest.raises(vramx.ConfigError, match="no shape yet"):
            session.load(nn.Sequential(nn.LazyLinear(4)), path)
        session.load(network, path)
        with pytest.raises(vramx.ConfigError, match="managed already"):
            session.load(network, path)


def test_without_a_card_the_weights_are_loaded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, saved: tuple[nn.Sequential, Path]
) -> None:
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", "libno_such_driver.so")
    network, path = saved
    module = on_meta(network)
    with pytest.warns(RuntimeWarning, match="nothing"):
        session = vramx.oversubscribe("1MiB", on_missing="cpu")
    with session:
        session.load(module, path)
    assert contents(module) == contents(network)


_MEASURE = """
import ctypes, sys, torch, vramx
from torch import nn
from vramx import _core
from vramx.integrations.torch import moving

def anonymous():  # what the process holds, without the pages of mapped files
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))

held = []
store = _core.Core.store

def watched_store(core, copies):
    store(core, copies)
    held.append(anonymous())

# As it is, the C library keeps more of what was freed the more was freed.
M_MMAP_THRESHOLD = -3  # of malloc.h
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**17)
moving._BATCH = 2**22
with torch.device("meta"):
    module = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(16)))
    first = nn.Sequential(nn.Linear(1024, 1024, bias=False))
if sys.argv[2] == "half":
    module.half()
with vramx.simulate("16MiB"), vramx.oversubscribe("8MiB", backend="simulated", block="4MiB") as s:
    s.load(first, sys.argv[1], strict=False)  # what loading imports is no copy of weights
    s.unmanage(first)
    _core.Core.store = watched_store
    before = anonymous()
    s.load(module, sys.argv[1])
    print(max(held) - before, s.stats().managed)
"""


@pytest.mark.parametrize("held", ["full", "half"])
def test_the_weights_are_held_once_and_a_batch_while_they_are_loaded(
    tmp_path: Path, held: str
) -> None:
    weights = {f"{n}.weight": torch.full((1024, 1024), float(n)) for n in range(16)}
    path = as_safetensors(weights, tmp_path)
    grown, managed = (int(each) for each in run_forked(_MEASURE, str(path), held).split())
    assert managed == 2**26 // (2 if held == "half" else 1)
    # The simulated card has memory at its own addresses beside the host copies; a second copy in
    # the host would make it three times the weights.
    batch, allocator = 2**22, 2**22
    assert 2 * managed <= 2**10 * grown + 2**20
    assert 2**10 * grown < 2 * managed + batch + allocator
