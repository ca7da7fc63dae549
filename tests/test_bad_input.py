"""What is not allowed gives a typed error that names it and what is, and changes nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vramx
from child import run_child
from vramx import Advice

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]

HUGE = [2**63, 2**64, 10**400, "99999999TiB", 1e300]
NO_SIZES = [0, -1, 0.0, -0.5, math.nan, math.inf, -math.inf, "", "0", "8 apples", "-1GiB", "1e9"]
NO_SIZES += [True, False, b"1MiB", [], 1j, *HUGE]


def shown(value: object) -> str:
    return repr(value)[:24]


# Opening a session


NOT_ALLOWED: list[tuple[str, Any, str]] = [
    *(("budget", value, "budget") for value in NO_SIZES),
    ("budget", "65MiB", r"at most the card's 64\.00 MiB, not 65\.00 MiB"),
    ("budget", "63KiB", r"at least one block \(64\.00 KiB\).*not 63\.00 KiB"),
    *(("block", value, "block") for value in [*NO_SIZES, None]),
    ("block", 5000, r"multiple of 4\.00 KiB.*not 5000 bytes"),
    *(("reserve", value, "reserve") for value in [-1, math.nan, "8 apples", None, *HUGE]),
    *(("host_limit", value, "host_limit") for value in NO_SIZES),
    ("policy", "fifo", r"'fifo'.*adaptive, clairvoyant, lru, mru"),
    ("policy", "LRU", r"'LRU'.*adaptive, clairvoyant, lru, mru"),
    ("policy", "", "adaptive, clairvoyant, lru, mru"),
    ("policy", None, "fetched, leased, evicted and victim"),
    ("policy", 3, "fetched, leased, evicted and victim"),
    ("policy", ..., "fetched, leased, evicted and victim"),
    ("backend", "cuda", r"'cuda'.*auto, managed, mapped, simulated"),
    ("backend", "", "auto, managed, mapped, simulated"),
    ("backend", None, "auto, managed, mapped, simulated"),
    ("device", -1, r"-1.*cuda:0"),
    ("device", "cpu", r"'cpu'.*cuda:0"),
    ("device", torch.device("cpu"), r"cpu.*cuda:0"),
    ("device", torch.device("meta"), r"meta.*cuda:0"),
    ("device", "cuda:x", r"'cuda:x'.*cuda:0"),
    ("device", "cuda:-1", r"'cuda:-1'.*cuda:0"),
    ("device", 1.5, r"1\.5.*cuda:0"),
    ("device", True, r"True.*cuda:0"),
    ("device", "gpu", r"'gpu'.*cuda:0"),
    ("device", 1, "device 0, not 1"),
    ("device", "cuda:7", "device 0, not 7"),
    ("device", 2**40, str(2**40)),
    ("on_missing", "ignore", r"'ignore'.*error, cpu"),
    ("on_missing", None, r"None.*error, cpu"),
]


@pytest.mark.usefixtures("no_open_session")
@pytest.mark.parametrize("on_missing", ["error", "cpu"])
@pytest.mark.parametrize(("name", "value", "message"), NOT_ALLOWED, ids=shown)
def test_a_session_with_a_wrong_argument_is_not_opened(
    name: str, value: Any, message: str, on_missing: str
) -> None:
    arguments = {"budget": "1MiB", "backend": "simulated", "block": BLOCK, "on_missing": on_missing}
    with vramx.simulate(capacity="64MiB", granule="4KiB"):
        with pytest.raises(vramx.ConfigError, match=message) as raised:
            vramx.oversubscribe(**{**arguments, name: value})
        assert isinstance(raised.value, ValueError)
        with pytest.raises(vramx.Error, match="no session is open"):
            vramx.current_session()
        vramx.oversubscribe(**arguments).close()


@pytest.mark.usefixtures("no_open_session")
def test_a_budget_of_none_that_leaves_no_block_is_refused() -> None:
    with vramx.simulate(capacity="512MiB"):
        with pytest.raises(vramx.ConfigError, match=r"512\.00 MiB free.*reserve of 512\.00 MiB"):
            vramx.oversubscribe(backend="simulated")
        with pytest.raises(vramx.ConfigError, match=r"reserve of 500\.00 MiB.*32\.00 MiB"):
            vramx.oversubscribe(backend="simulated", reserve="500MiB")
        vramx.oversubscribe(backend="simulated", reserve="480MiB").close()


@pytest.mark.usefixtures("no_open_session")
@pytest.mark.parametrize("value", ["8 apples", "0", "-1", "nan"])
def test_a_wrong_setting_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VRAMX_MANAGED_LIMIT", value)
    with pytest.raises(vramx.ConfigError, match="VRAMX_MANAGED_LIMIT"):
        vramx.oversubscribe("1MiB", backend="simulated", block=BLOCK)


NOT_SIMULATED: list[tuple[str, Any]] = [
    *(("capacity", value) for value in [0, "8 apples", math.nan, None, *HUGE]),
    *(("link", value) for value in [0, "fast", "25GB/h", math.nan, math.inf, -1.0, None]),
    *(("link_to_host", value) for value in [0, "fast", "25GB/h"]),
    *(("latency", value) for value in [-1e-9, math.nan, math.inf, "soon", None]),
    *(("lanes", value) for value in [0, -1, 1.5, "2", None, 2**40]),
    *(("granule", value) for value in [0, 1, 6000, "6KB", "4 apples", None]),
    *(("host_memory", value) for value in [0, "much", 2**64]),
    *(("unpack_rate", value) for value in ["fast", "25GB/h", math.nan, math.inf, -1.0]),
]


@pytest.mark.parametrize(("told", "rate"), [(None, 0), (0, 0), ("2GB/s", 2e9), (5e9, 5e9)])
def test_the_simulated_card_unpacks_as_it_is_told(told: Any, rate: float) -> None:
    with vramx.simulate(unpack_rate=told) as simulation:
        assert simulation.device().unpack_rate == rate


@pytest.mark.parametrize(("name", "value"), NOT_SIMULATED, ids=shown)
def test_a_wrong_figure_of_the_simulated_card_is_refused(name: str, value: Any) -> None:
    good = {"capacity": "2MiB", "granule": "4KiB"}
    with vramx.simulate(**good):
        with (
            pytest.raises(vramx.ConfigError, match=name.split("_", maxsplit=1)[0]),
            vramx.simulate(**{**good, name: value}),
        ):
            vramx.oversubscribe("1MiB", backend="simulated", block=BLOCK)
        session = vramx.oversubscribe("1MiB", backend="simulated", block=BLOCK)
        assert session.device.capacity == 2 * 2**20
        session.close()


# No card


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch, no_open_session: None) -> str:  # noqa: ARG001
    """As on a machine without a driver, also where there is one."""
    path = "/nowhere/libcuda.so.1"
    monkeypatch.setenv("VRAMX_CUDA_DRIVER", path)
    return path


@pytest.mark.parametrize("backend", ["auto", "managed", "mapped"])
def test_without_a_driver_there_is_no_session_and_the_error_says_what_to_do(
    no_card: str, backend: str
) -> None:
    for budget in ("1GiB", None):
        with pytest.raises(vramx.NoDeviceError) as raised:
            vramx.oversubscribe(budget, backend=backend)
        assert no_card in str(raised.value)
        assert "driver" in str(raised.value)
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()


@pytest.mark.usefixtures("no_card")
def test_a_missing_card_may_be_tolerated_and_then_the_scope_does_nothing(
    linears: Linears,
) -> None:
    model, x = linears(2), torch.ones(2, 128)
    expected = model(x)
    addresses = [p.data_ptr() for p in model.parameters()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with vramx.oversubscribe("1GiB", on_missing="cpu") as session:
            assert vramx.current_session() is session
            assert session.manage(model, name="it") is model
            assert not session.manages(model)
            assert not session.closed
            vramx.prefetch(model)
            vramx.evict(model)
            with vramx.pin(model) as pinned, session.route():
                assert pinned is model
            vramx.advise(model, Advice.READ_MOSTLY)
            session.written(model)
            session.set_budget("2GiB")
            assert torch.equal(model(x), expected)
            assert vramx.empty((2, 3), torch.int8).shape == (2, 3)
            assert vramx.stats() == vramx.Stats()
            assert "on_missing" in session.report()
            assert session.unmanage(model) is model
            session.keep()
        assert not session.closed
        session.close()
        session.close()
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert [str(each.message) for each in caught if "vramx" in str(each.message)] == [
        str(caught[0].message)
    ]
    assert "manages nothing" in str(caught[0].message)
    assert caught[0].filename == __file__
    with pytest.raises(vramx.Error, match="no session is open"):
        vramx.current_session()


@pytest.mark.usefixtures("no_card")
def test_a_tolerated_scope_still_refuses_what_is_wrong() -> None:
    with pytest.warns(RuntimeWarning, match="manages nothing"):
        session = vramx.oversubscribe("1GiB", on_missing="cpu")
    with session:
        with pytest.raises(vramx.ConfigError, match="budget"):
            session.set_budget("8 apples")
        with pytest.raises(vramx.ConfigError, match="READ_MOSTLY"):
            session.advise([], "read mostly")
        with pytest.raises(ZeroDivisionError):
            raise ZeroDivisionError


# Managing


class Secretive(torch.Tensor):
    """Has a way of its own with operations, and does not say what it consists of."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def meta() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4))


def with_buffer(buffer: torch.Tensor) -> nn.Module:
    module = nn.Linear(4, 4)
    module.register_buffer("odd", buffer)
    return module


def quantised() -> nn.Module:
    return with_buffer(torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8))


def subclassed() -> nn.Module:
    return with_buffer(torch.Tensor._make_subclass(Secretive, torch.ones(4)))


UNMANAGEABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "a meta tensor": (meta, r"1\.weight is a meta tensor.*1\.bias"),
    "a lazy weight": (lazy, r"1\.weight has no shape yet"),
    "a sparse tensor": (lambda: with_buffer(torch.eye(4).to_sparse()), "odd has the layout"),
    "a compressed tensor": (lambda: with_buffer(torch.eye(4).to_sparse_csr()), "odd has the lay"),
    "a quantised tensor": (quantised, "odd is quantised"),
    "a tensor subclass": (subclassed, r"odd is a \S*Secretive, which does not say"),
    "a tensor": (lambda: torch.ones(4), "Tensor is not a torch.nn.Module"),
    "a class": (lambda: nn.Linear, "type is not a torch.nn.Module"),
    "nothing": (lambda: None, "NoneType is not a torch.nn.Module"),
    "text": (lambda: "model", "str is not a torch.nn.Module"),
}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("name", UNMANAGEABLE)
def test_what_cannot_be_managed_is_refused_by_name(
    open_session: OpenSession, linears: Linears, name: str
) -> None:
    make, message = UNMANAGEABLE[name]
    with open_session() as session:
        model = session.manage(linears(2))
        before, given = session.stats(), make()
        attributes = {**given.__dict__} if isinstance(given, nn.Module) else {}
        with pytest.raises(vramx.ConfigError, match=message):
            session.manage(given)
        assert session.stats() == before
        if isinstance(given, nn.Module):
            assert given.__dict__ == attributes
        assert torch.equal(model(torch.ones(1, 128)), linears(2)(torch.ones(1, 128)))


def test_a_module_is_managed_once(open_session: OpenSession, linears: Linears) -> None:
    model = linears(3)
    around, x = nn.Sequential(nn.Linear(128, 128), model), torch.ones(1, 128)
    expected = model(x)
    with open_session() as session, open_session() as other:
        session.manage(model)
        before = session.stats()
        for each in (session, other):
            for given in (model, model[1], around):
                with pytest.raises(vramx.ConfigError, match=r"managed already.*unmanage"):
                    each.manage(given)
            with pytest.raises(vramx.ConfigError, match="not a module that this session manages"):
                each.unmanage(model[1])
        with pytest.raises(vramx.ConfigError, match="not a module that this session manages"):
            other.unmanage(model)
        assert session.stats() == before
        assert other.stats().managed == 0
        assert torch.equal(model(x), expected)
        session.unmanage(model)
        with pytest.raises(vramx.ConfigError, match="not a module that this session manages"):
            session.unmanage(model)
        other.manage(around)
        assert torch.equal(model(x), expected)
        assert other.stats().managed > 4 * BLOCK


def test_managing_beyond_the_host_limit_is_refused(
    open_session: OpenSession, linears: Linears
) -> None:
    model = linears(4)
    with open_session(host_limit=6 * BLOCK) as session:
        session.manage(model)
        before = session.stats()
        third = linears(3)
        addresses = [each.data_ptr() for each in third.parameters()]
        with pytest.raises(vramx.OutOfMemoryError, match=r"host_limit.*384\.00 KiB") as raised:
            session.manage(third)
        assert isinstance(raised.value, MemoryError)
        assert (raised.value.asked, raised.value.budget) == (3 * BLOCK, 6 * BLOCK)
        del raised
        assert session.stats() == before
        assert [each.data_ptr() for each in third.parameters()] == addresses
        session.manage(linears(2))
        assert torch.equal(model(torch.ones(1, 128)), linears(4)(torch.ones(1, 128)))


# Moving


FOREIGN: dict[str, tuple[Callable[[], Any], str]] = {
    "a number": (lambda: 3, "int is not a tensor, a module"),
    "nothing": (lambda: None, "NoneType is not a tensor, a module"),
    "text": (lambda: "weights", "str is not a tensor, a module"),
    "bytes": (lambda: b"weights", "bytes is not a tensor, a module"),
    "a class": (lambda: nn.Linear, "type is not a tensor, a module"),
    "a list with a number": (lambda: [torch.empty(0), 3], "int is not a tensor, a module"),
    "a dictionary": (lambda: {"weight": torch.ones(1)}, "str is not a tensor, a module"),
    "a foreign tensor": (lambda: torch.ones(4), "no memory of this session"),
    "a foreign array": (lambda: np.ones(4), "no memory of this session"),
    "an unmanaged module": (lambda: nn.Linear(2, 2), "no memory of this session"),
}


def pin(session: vramx.Session, x: Any) -> None:
    with session.pin(x):
        pass


VERBS: dict[str, Callable[[vramx.Session, Any], object]] = {
    "prefetch": lambda session, x: session.prefetch(x),
    "evict": lambda session, x: session.evict(x),
    "pin": pin,
    "advise": lambda session, x: session.advise(x, Advice.PREFERRED_HOST),
    "written": lambda session, x: session.written(x),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_the_session_s_cannot_be_moved(
    open_session: OpenSession, linears: Linears, name: str, verb: str
) -> None:
    make, message = FOREIGN[name]
    with open_session() as session:
        model = session.manage(linears(2))
        session.prefetch(model[0])
        before = session.stats()
        for given in (make(), [model, make()]):
            with pytest.raises(vramx.ConfigError, match=message):
                VERBS[verb](session, given)
        assert session.stats() == before
        assert torch.equal(model(torch.ones(1, 128)), linears(2)(torch.ones(1, 128)))


@pytest.mark.parametrize("advice", ["READ_MOSTLY", "read_mostly", 1, None, Advice])
def test_unknown_advice_is_refused(
    open_session: OpenSession, linears: Linears, advice: Any
) -> None:
    with open_session() as session:
        model = session.manage(linears(2))
        before = session.stats()
        with pytest.raises(vramx.ConfigError, match=r"advice.*Advice\.READ_MOSTLY.*UNSET_"):
            session.advise(model, advice)
        assert session.stats() == before


@pytest.mark.parametrize("value", [*NO_SIZES, None, "63KiB", "65MiB"], ids=shown)
def test_a_wrong_new_budget_is_refused(
    open_session: OpenSession, linears: Linears, value: Any
) -> None:
    with open_session(4 * BLOCK) as session:
        model = session.manage(linears(4))
        session.prefetch(model)
        before = session.stats()
        with pytest.raises(vramx.ConfigError, match="budget"):
            session.set_budget(value)
        assert session.stats() == before


NO_ARRAYS: list[tuple[Any, Any, type[vramx.Error], str]] = [
    (-1, None, vramx.ConfigError, "shape -1"),
    ((2, -1), None, vramx.ConfigError, r"\(2, -1\)"),
    (1.5, None, vramx.ConfigError, r"1\.5"),
    ((2, 1.5), None, vramx.ConfigError, r"1\.5"),
    (None, None, vramx.ConfigError, "None"),
    ("3", None, vramx.ConfigError, "'3'"),
    (True, None, vramx.ConfigError, "True"),
    ((2, True), None, vramx.ConfigError, "True"),
    (4, "apples", vramx.ConfigError, "'apples'.*dtype"),
    (4, 3, vramx.ConfigError, "3.*dtype"),
    (4, torch.ones(1), vramx.ConfigError, "dtype"),
    (4, object, vramx.ConfigError, "object"),
    (4, str, vramx.ConfigError, "str|U"),
    (4, [("a", object)], vramx.ConfigError, "object|O"),
    (2**40, np.uint8, vramx.OutOfMemoryError, "host"),
    ((2**40, 2**40), np.uint8, vramx.Error, "memory|large|shape|asked"),
    ((2**40, 2**40), None, vramx.Error, "memory|large|shape|asked"),
    (2**64 - 1, np.uint8, vramx.Error, "memory|large|shape|asked"),
    (2**64 - 100, np.uint8, vramx.Error, "memory|large|shape|asked"),
    (2**63 - 1, torch.uint8, vramx.Error, "memory|large|shape|asked"),
]


@pytest.mark.parametrize(("shape", "dtype", "error", "message"), NO_ARRAYS, ids=shown)
def test_an_array_that_cannot_be_is_refused(
    open_session: OpenSession, shape: Any, dtype: Any, error: type[vramx.Error], message: str
) -> None:
    with open_session() as session:
        before = session.stats()
        with pytest.raises(error, match=message):
            session.empty(shape, dtype)
        assert session.stats() == before
        assert torch.equal(session.empty(4).fill_(2), torch.full((4,), 2.0))


# Policies of one's own


class Oldest:
    """The least recently used leaves; wrong, where told, once."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.fails_in: str | None = None
        self.answer: Any = self

    def fail(self, method: str) -> None:
        if self.fails_in == method:
            self.fails_in = None
            raise ZeroDivisionError(method)

    def fetched(self, block: int) -> None:
        self.order.append(block)
        self.fail("fetched")

    def leased(self, block: int) -> None:
        self.order.remove(block)
        self.order.append(block)
        self.fail("leased")

    def evicted(self, block: int) -> None:
        self.order.remove(block)
        self.fail("evicted")

    def victim(self, evictable: Callable[[int], bool]) -> Any:
        self.fail("victim")
        if self.answer is not self:
            return self.answer
        return next(filter(evictable, self.order), None)


@pytest.mark.parametrize("missing", ["fetched", "leased", "evicted", "victim"])
def test_a_policy_without_a_method_is_refused_by_its_name(
    open_session: OpenSession, missing: str
) -> None:
    methods = {"fetched", "leased", "evicted", "victim"} - {missing}
    policy = type("Policy", (), dict.fromkeys(methods, lambda *_: None))()
    with pytest.raises(vramx.ConfigError, match=f"no {missing}"):
        open_session(policy=policy)


@pytest.mark.parametrize("method", ["fetched", "leased", "evicted", "victim"])
def test_what_a_policy_raises_comes_through_once_and_the_session_stays_usable(
    open_session: OpenSession, linears: Linears, method: str
) -> None:
    policy, model, x = Oldest(), linears(5), torch.ones(1, 128)
    expected = model(x)
    with open_session(2 * BLOCK, policy=policy) as session:
        session.manage(model)
        model(x)
        policy.fails_in = method
        raised = 0
        for _ in range(3):
            try:
                assert torch.equal(model(x), expected)
                assert torch.equal(model[4](x), model[4](x))  # touches what is there
            except ZeroDivisionError as error:
                raised += str(error) == method
            assert session.stats().leased == 0
            assert session.stats().resident == session.device.on_card
        assert raised == 1
        assert torch.equal(model(x), expected)
        session.set_budget(BLOCK)
        session.evict(model)
        assert session.device.on_card == 0
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("answer", [-1, 10**6, 2**70, "0", 1.5, None, []], ids=shown)
def test_a_policy_that_names_no_block_that_may_leave_cannot_break_the_budget(
    open_session: OpenSession, linears: Linears, answer: Any
) -> None:
    policy, model, x = Oldest(), linears(5), torch.ones(1, 128)
    expected = model(x)
    with open_session(3 * BLOCK, policy=policy) as session:
        session.manage(model)
        model(x)
        policy.answer = answer
        with pytest.raises(vramx.Error, match="policy"):
            session.set_budget(2 * BLOCK)
        assert session.stats().budget == 3 * BLOCK
        assert session.device.on_card == 3 * BLOCK
        try:
            assert torch.equal(model(x), expected)  # over the link
        except vramx.Error as error:
            assert "policy" in str(error)
        assert session.stats().leased == 0
        assert session.device.peak_on_card <= 3 * BLOCK
        policy.answer = policy
        assert torch.equal(model(x), expected)
        assert session.set_budget(2 * BLOCK) == 3 * BLOCK
        assert session.device.on_card == 2 * BLOCK


def test_a_policy_that_names_a_block_in_use_cannot_move_it(
    open_session: OpenSession, linears: Linears
) -> None:
    policy, model, x = Oldest(), linears(5), torch.ones(1, 128)
    with open_session(2 * BLOCK, policy=policy) as session:
        session.manage(model)
        with session.pin(model[0]):
            (pinned,) = policy.order
            session.prefetch(model[1])
            policy.answer = pinned
            with pytest.raises(vramx.Error, match=f"policy chose block {pinned}.*may not leave"):
                model[2](x)
            assert session.stats().leased == BLOCK
            policy.answer = policy
            assert torch.equal(model(x), linears(5)(x))


# What must not bring the process down is tried in one of its own.


@pytest.mark.parametrize("granule", [1, 512, 4095, 6000, 4096 * 3 + 1])
def test_no_granule_crashes_the_process(granule: int) -> None:
    code = f"""
        import vramx
        from vramx import _core
        try:
            device = _core.SimulatedDevice(capacity=2**24, link_up=1e9, link_down=1e9, latency=0.0,
                lanes=2, granule={granule}, host_memory=2**30, reads_over_link=True,
                host_addresses=True, check_drops=False)
            core = _core.Core(device=device, budget={granule} * 64, block={granule} * 16,
                policy="lru", threaded=False, host_limit=2**30)
            memories = core.reserve([{granule} * 5, 3, {granule}], _core.Purpose.WEIGHTS)
            core.prefetch([(each.address, each.nbytes) for each in memories])
        except vramx.ConfigError as error:
            assert "granule" in str(error), error
    """
    run_child(code)


def test_numbers_that_python_does_not_write_are_refused_as_others_are(
    open_session: OpenSession,
) -> None:
    number = 10**5000
    with open_session() as session:
        for call in (session.set_budget, vramx.simulate):
            with pytest.raises(vramx.ConfigError, match="bits is not a size"):
                call(number)
        with pytest.raises(vramx.OutOfMemoryError, match="of 16610 bits"):
            session.empty((2, number))
