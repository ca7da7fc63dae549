"""A managed module computes what it computes unmanaged, bit for bit, whatever the budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import vramx

BLOCK = 4 * 2**10
PASSES = 3


class ConvNet(nn.Module):
    """Convolutions with batch norm, whose statistics change as it runs in train mode."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 16)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in zip(widths, widths[1:])
            )
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


class CausalBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, 4, width // 4).unbind(2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(x)


class Gpt(nn.Module):
    """The head's weight is the embedding's; the last block attends through torch's own module."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(64, width)
        self.places = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.head = nn.Linear(width, 64, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("order", torch.arange(16), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(self.order[: ids.shape[1]].clone())
        for block in self.blocks:
            x = block(x)
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])


class UNet(nn.Module):
    """Its first activations are used again by its last modules."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 16)))
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((32, 8), (16, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for conv in self.down:
            x = F.relu(conv(x))
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = F.relu(self.middle(x))
        for conv in self.up:
            x = F.interpolate(x, scale_factor=2)
            x = conv(torch.cat((x, skips.pop()), 1))
        return x


class Experts(nn.Module):
    """Which expert runs depends on the data, and so differs from pass to pass."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 6)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(6)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.gate(x).argmax(-1)
        y = x.clone()
        for index in chosen.unique().tolist():
            y[chosen == index] = self.experts[index](x[chosen == index])
        return y


class Twice(nn.Module):
    """One module is called twice in a pass, with others between."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(32, 32)
        self.first = nn.Linear(32, 32)
        self.second = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.shared(torch.tanh(self.first(self.shared(x)))))


class Odd(nn.Module):
    """Weights that are transposed, strided, views of one storage, expanded or of no bytes."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(3, 32, 32)
        self.transposed = nn.Parameter(torch.randn(32, 32).t())
        self.strided = nn.Parameter(torch.randn(64, 64)[::2, ::2])
        self.expanded = nn.Parameter(torch.randn(32, 1).expand(32, 32))
        self.one = nn.Parameter(whole[0])
        self.overlapping = nn.Parameter(whole.view(96, 32)[16:48])
        self.nothing = nn.Parameter(torch.empty(0, 32))
        self.register_buffer("view", whole[2].clone().diagonal())
        self.scalar = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x @ self.transposed @ self.strided + x * self.view
        x = x @ self.one @ self.overlapping + x @ self.expanded
        return torch.cat((x * self.scalar, self.nothing))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


def linear_stack() -> nn.Module:
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def old_weight_norm() -> nn.Module:
    return nn.Sequential(
        *(nn.utils.weight_norm(nn.Linear(48, 48)) for _ in range(2)),
        nn.utils.spectral_norm(nn.Linear(48, 48)),
    )


def new_weight_norm() -> nn.Module:
    return nn.Sequential(
        *(parametrizations.weight_norm(nn.Linear(48, 48)) for _ in range(2)),
        parametrizations.orthogonal(nn.Linear(48, 48)),
    )


def pictures() -> Iterator[torch.Tensor]:
    while True:
        yield torch.randn(2, 3, 16, 16)


def sentences() -> Iterator[torch.Tensor]:
    while True:
        yield torch.randint(64, (2, 12))


def vectors(*shape: int) -> Callable[[], Iterator[torch.Tensor]]:
    def make() -> Iterator[torch.Tensor]:
        while True:
            yield torch.randn(*shape)

    return make


MODELS = {
    "linear stack": (linear_stack, vectors(4, 64)),
    "convolutions with batch norm": (ConvNet, pictures),
    "gpt with tied embeddings": (Gpt, sentences),
    "u-net with long skips": (UNet, pictures),
    "mixture of experts": (Experts, vectors(5, 32)),
    "called twice in a pass": (Twice, vectors(4, 32)),
    "odd strides and sizes": (Odd, vectors(4, 32)),
    "recurrent": (Recurrent, vectors(2, 5, 16)),
    "transformer encoder": (encoder, vectors(2, 7, 32)),
    "old weight norm": (old_weight_norm, vectors(3, 48)),
    "new weight norm": (new_weight_norm, vectors(3, 48)),
}


def built(name: str, *, train: bool) -> tuple[nn.Module, list[torch.Tensor]]:
    """The same model and inputs every time."""
    make, inputs = MODELS[name]
    torch.manual_seed(7)
    model = make().train(train)
    given = inputs()
    return model, [next(given) for _ in range(PASSES)]


def run(model: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    torch.manual_seed(11)  # for dropout
    return [model(x).detach().clone() for x in inputs]


def own_bytes(module: nn.Module) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


def largest_module(model: nn.Module) -> int:
    """The most bytes that one call needs; the encoder's layers and attention are used as one."""
    whole = (nn.TransformerEncoderLayer, nn.MultiheadAttention)
    parts = [each for each in model.modules() if isinstance(each, whole)]
    parts += [each for each in model.modules() if not [*each.children()]]
    return max(map(own_bytes, parts))


def blocks(size: float) -> int:
    return max(1, -int(-size // BLOCK)) * BLOCK


def budgets(model: nn.Module) -> dict[str, int]:
    """From less than the largest module to more than all; its edges share blocks with others."""
    largest, whole = blocks(largest_module(model)), blocks(own_bytes(model))
    return {
        "below the largest module": blocks(largest / 2),
        "just above the largest module": largest + 4 * BLOCK,
        "half of all": max(largest + 4 * BLOCK, blocks(whole / 2)),
        "more than all": whole + 64 * BLOCK,
    }


BUDGETS = (
    "below the largest module",
    "just above the largest module",
    "half of all",
    "more than all",
)


def assert_equal_state(managed: nn.Module, plain: nn.Module) -> None:
    state, expected = managed.state_dict(), plain.state_dict()
    assert list(state) == list(expected)
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


def assert_budget_held(session: vramx.Session, budget: int) -> None:
    stats = session.stats()
    assert session.device.peak_on_card <= budget
    assert stats.peak_resident <= budget
    assert stats.resident == session.device.on_card
    assert stats.leased == 0


@pytest.mark.parametrize("budget_name", BUDGETS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_state_are_those_of_an_unmanaged_run(
    open_session: Callable[..., vramx.Session], name: str, train: bool, budget_name: str
) -> None:
    plain, inputs = built(name, train=train)
    managed, _ = built(name, train=train)
    budget = budgets(plain)[budget_name]
    with torch.set_grad_enabled(train):
        expected = run(plain, inputs)
        with open_session(budget, block=BLOCK) as session:
            session.manage(managed)
            outputs = run(managed, inputs)
            assert_budget_held(session, budget)
            stats = session.stats()
    assert all(map(torch.equal, outputs, expected))
    assert_equal_state(managed, plain)
    assert stats.passes == PASSES
    assert stats.unleased_accesses == 0
    if budget_name == "below the largest module":
        assert stats.over_link > 0
    if budget_name == "more than all":
        assert stats.evictions == stats.over_link == 0


class Farthest:
    """A policy of one's own: the block with the highest number leaves."""

    def __init__(self) -> None:
        self.on_card: set[int] = set()

    def fetched(self, block: int) -> None:
        self.on_card.add(block)

    def leased(self, block: int) -> None:
        assert block in self.on_card

    def evicted(self, block: int) -> None:
        self.on_card.remove(block)

    def victim(self, evictable: Callable[[int], bool]) -> int | None:
        return max(filter(evictable, self.on_card), default=None)


@pytest.mark.parametrize("policy", ["adaptive", "lru", "mru", "clairvoyant", "an object"])
@pytest.mark.parametrize("name", ["linear stack", "mixture of experts", "gpt with tied embeddings"])
def test_no_policy_changes_a_bit(
    open_session: Callable[..., vramx.Session], name: str, policy: str
) -> None:
    plain, inputs = built(name, train=False)
    managed, _ = built(name, train=False)
    budget = budgets(plain)["just above the largest module"]
    chosen = Farthest() if policy == "an object" else policy
    with torch.no_grad(), open_session(budget, block=BLOCK, policy=chosen) as session:
        session.manage(managed)
        outputs = run(managed, inputs)
        assert session.stats().evictions > 0
        assert_budget_held(session, budget)
    assert all(map(torch.equal, outputs, run(plain, inputs)))


@pytest.mark.parametrize("blocks_allowed", [2, 6, 12, 64])
def test_two_models_by_turns_compute_as_alone(
    open_session: Callable[..., vramx.Session], blocks_allowed: int
) -> None:
    names = ("u-net with long skips", "convolutions with batch norm")
    pairs = [built(name, train=False) for name in names]
    with torch.no_grad():
        expected = [run(model, inputs) for model, inputs in pairs]
        with open_session(blocks_allowed * BLOCK, block=BLOCK) as session:
            for model, _ in pairs:
                session.manage(model)
            turns = [[model(inputs[turn]) for model, inputs in pairs] for turn in range(PASSES)]
            assert session.stats().passes == len(names) * PASSES
            assert_budget_held(session, blocks_allowed * BLOCK)
    outputs = [list(each) for each in zip(*turns)]
    assert all(map(torch.equal, sum(outputs, []), sum(expected, [])))


@pytest.mark.parametrize("same_session", [True, False], ids=["one session", "two sessions"])
def test_two_models_that_share_a_weight_compute_as_alone_or_are_refused(
    open_session: Callable[..., vramx.Session],
    linears: Callable[[int], nn.Sequential],
    same_session: bool,
) -> None:
    first, second, x = linears(3), linears(3), torch.randn(2, 128)
    second[2].weight = first[0].weight
    expected = [first(x), second(x)]
    with open_session(2 * 64 * 2**10) as session, contextlib.ExitStack() as stack:
        session.manage(first)
        other = session if same_session else stack.enter_context(open_session())
        assert torch.equal(first(x), expected[0])
        refused = False
        try:
            other.manage(second)
        except vramx.ConfigError as error:
            assert "2.weight" in str(error)
            refused = True
        assert refused or torch.equal(second(x), expected[1])
        assert torch.equal(first(x), expected[0])
        assert first[0].weight is second[2].weight
    assert torch.equal(first(x), expected[0])
    assert torch.equal(second(x), expected[1])


def test_a_model_that_lies_in_the_session_s_memory_already_is_managed_or_refused(
    open_session: Callable[..., vramx.Session],
) -> None:
    model, x = nn.Linear(64, 64, bias=False), torch.randn(2, 64)
    expected = model(x)
    with open_session() as session:
        weight = session.empty((64, 64)).copy_(model.weight.detach())
        model.weight = nn.Parameter(weight)
        session.evict(weight)
        with contextlib.suppress(vramx.ConfigError):
            session.manage(model)
        assert torch.equal(model(x), expected)


class Noted(TorchDispatchMode):
    """Notes the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mask", [False, True], ids=["dense", "padded"])
def test_the_encoder_s_fast_path_stays(
    open_session: Callable[..., vramx.Session], mask: bool
) -> None:
    def make() -> nn.Module:
        torch.manual_seed(5)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        return nn.TransformerEncoder(layer, 3, enable_nested_tensor=mask).eval()

    x = torch.randn(2, 7, 32)
    padding = torch.arange(7).expand(2, 7) >= torch.tensor([[7], [4]])
    given = {"src_key_padding_mask": padding} if mask else {}
    managed = make()
    with torch.inference_mode():
        expected = make()(x, **given)
        with open_session(16 * BLOCK, block=BLOCK) as session:
            session.manage(managed)
            with Noted() as noted:
                output = managed(x, **given)
            assert session.stats().unleased_accesses == 0
    assert torch.equal(output, expected)
    assert "aten::_transformer_encoder_layer_fwd" in noted.names


@pytest.fixture
def forgotten_compilations() -> Iterator[None]:
    """What torch compiled for other tests is not counted against its limit in this one."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_in_place(model: nn.Module, backend: str) -> nn.Module:
    model.compile(backend=backend)
    return model


def compiled_parts(model: nn.Module, backend: str) -> nn.Module:
    for place, each in enumerate(model):
        model[place] = torch.compile(each, backend=backend)
    return model


def compiled_parts_in_place(model: nn.Module, backend: str) -> nn.Module:
    for each in model:
        each.compile(backend=backend)
    return model


COMPILED = {
    "torch.compile(model)": lambda model, backend: torch.compile(model, backend=backend),
    "model.compile()": compiled_in_place,
    "torch.compile(part)": compiled_parts,
    "part.compile()": compiled_parts_in_place,
}


@pytest.mark.usefixtures("forgotten_compilations")
@pytest.mark.parametrize("in_scope", [True, False], ids=["in the scope", "outside any scope"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", COMPILED)
def test_a_compiled_module_computes_as_unmanaged(
    open_session: Callable[..., vramx.Session], how: str, backend: str, in_scope: bool
) -> None:
    def make() -> nn.Module:
        torch.manual_seed(3)
        parts = (nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(3))
        return COMPILED[how](nn.Sequential(*parts).eval(), backend)

    whole = how in ("torch.compile(model)", "model.compile()")
    budget = (64 if whole else 12) * BLOCK
    managed, plain, inputs = make(), make(), [torch.randn(4, 64) for _ in range(PASSES)]
    with torch.no_grad():
        expected = run(plain, inputs)
        session = open_session(budget, block=BLOCK)
        with session if in_scope else contextlib.nullcontext():
            session.manage(managed)
            outputs = run(managed, inputs)
            assert session.stats().unleased_accesses == 0
            assert (session.stats().evictions > 0) is not whole
            assert_budget_held(session, budget)
        session.close()
        assert torch.equal(managed(inputs[0]), expected[0])
    assert all(map(torch.equal, outputs, expected))
    assert_equal_state(managed, plain)


@pytest.mark.usefixtures("forgotten_compilations")
def test_what_is_compiled_stays_compiled_without_breaks(
    open_session: Callable[..., vramx.Session],
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def counted(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    session = open_session(32 * BLOCK, block=BLOCK)
    compiled = session.manage(torch.compile(model, backend=counted, fullgraph=True))
    x = torch.randn(2, 64)
    with torch.no_grad():
        assert torch.equal(compiled(x), compiled(x))
    assert len(graphs) == 1


@pytest.mark.parametrize("name", ["linear stack", "convolutions with batch norm", "recurrent"])
def test_training_under_a_budget_gives_the_same_weights(
    open_session: Callable[..., vramx.Session], name: str
) -> None:
    def train(model: nn.Module, inputs: list[torch.Tensor]) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for x in inputs:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    plain, inputs = built(name, train=True)
    managed, _ = built(name, train=True)
    train(plain, inputs)
    budget = budgets(plain)["just above the largest module"]
    with open_session(budget, block=BLOCK) as session:
        session.manage(managed)
        train(managed, inputs)
        assert_budget_held(session, budget)
    assert_equal_state(managed, plain)
    gradients = zip(managed.parameters(), plain.parameters())
    assert all(torch.equal(a.grad, b.grad) for a, b in gradients)


def test_weights_made_in_inference_mode_compute_as_unmanaged(
    open_session: Callable[..., vramx.Session],
) -> None:
    with torch.inference_mode():
        model, inputs = built("linear stack", train=False)
        expected = run(model, inputs)
        with open_session(8 * BLOCK, block=BLOCK) as session:
            session.manage(model)
            assert all(map(torch.equal, run(model, inputs), expected))
            assert session.stats().evictions > 0
            assert all(p.is_inference() for p in model.parameters())
        assert all(p.is_inference() for p in model.parameters())


@pytest.mark.parametrize("memory", ["mapped", "managed"])
def test_what_is_used_without_a_call_has_the_right_bits_and_is_counted_where_it_faults(
    open_session: Callable[..., vramx.Session],
    linears: Callable[[int], nn.Sequential],
    memory: str,
) -> None:
    model = linears(3)
    expected = [each.weight.detach().clone() for each in model]
    with torch.no_grad(), open_session(64 * 2**10, memory=memory) as session:
        session.manage(model)
        assert session.stats().unleased_accesses == 0
        assert all(torch.equal(each.weight.clone(), e) for each, e in zip(model, expected))
        accesses, moved = session.stats().unleased_accesses, session.device.moved_in
        assert accesses >= len(model) if memory == "managed" else accesses == moved == 0


@pytest.mark.parametrize("memory", ["mapped", "managed"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.contiguous(memory_format=torch.channels_last),
        lambda w: w.mT.reshape(-1),
        lambda w: w.mT.flatten(),
        lambda w: w.to(torch.float64),
        lambda w: w.to(torch.float32, copy=True),
        lambda w: w.expand(2, *w.shape).contiguous(),
    ],
)
def test_weights_are_read_as_they_are_outside_calls_by_what_copies_at_times(
    open_session: Callable[..., vramx.Session],
    memory: str,
    context: Any,
    read: Callable[..., torch.Tensor],
) -> None:
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(6)))
    weights = [each.weight.detach().clone() for each in model]
    with open_session(2 * 8192, block=8192, memory=memory) as session, context():
        session.manage(model)
        model(torch.zeros(1, 16, 20, 20))
        for layer, weight in zip(model, weights):
            assert torch.equal(read(layer.weight), read(weight))
