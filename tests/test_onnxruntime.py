"""ONNX Runtime's CUDA provider has a session's memory and the card, or there is an error.

The C symbols are called as the provider calls them, over the stand-in driver.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramx
from fake_onnxruntime import CPU, CUDA, EPFail, NoSuchFile, OnnxRuntime, Provider
from loopback.control import Loopback
from vramx import _core
from vramx.session import Session
from vramx.session.absent import NoCard
from vramx.session.options import SessionOptions

onnxruntime = pytest.importorskip("onnxruntime", minversion="1.28")
from vramx.integrations.onnxruntime import inference_session  # noqa: E402
from vramx.integrations.onnxruntime.choosing import asked_providers, served_providers  # noqa: E402
from vramx.integrations.onnxruntime.provider import (  # noqa: E402
    provider_options,
    require_cuda,
    route,
    told_by_a_run,
    told_by_the_provider,
)

pytest_plugins = ("loopback.fixture",)

MIB = 2**20


OpenSession = Callable[[], vramx.Session]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OnnxRuntime:
    """The package onnxruntime-gpu, of which the test environment has only the one for the CPU."""
    one = OnnxRuntime(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", one)
    return one


# Options

OWN = {
    "cudnn_conv_algo_search": st.sampled_from(["HEURISTIC", "DEFAULT"]),
    "use_tf32": st.sampled_from([0, "1"]),
    "device_id": st.sampled_from([0, "0"]),
    "enable_cuda_graph": st.sampled_from([False, "0"]),
    "do_copy_in_default_stream": st.sampled_from([True, 1, "1"]),
}
CONFLICTS = [
    {"user_compute_stream": "1"},
    {"has_user_compute_stream": 1},
    {"gpu_external_alloc": "1"},
    {"gpu_external_free": "1"},
    {"gpu_external_empty_cache": "1"},
    {"device_id": 1},
    {"enable_cuda_graph": True},
    {"enable_cuda_graph": "1"},
    {"do_copy_in_default_stream": "0"},
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(own=st.fixed_dictionaries({}, optional=OWN), conflict=st.sampled_from([{}, *CONFLICTS]))
def test_the_provider_takes_all_options_that_are_given_or_a_conflict_is_named(
    on_card: OpenSession, own: dict[str, Any], conflict: dict[str, Any]
) -> None:
    session = _open_one(on_card)
    asked = {**own, **conflict}
    if conflict:
        with pytest.raises(vramx.ConfigError, match=next(iter(conflict))):
            provider_options(session, **asked)
        return
    options = provider_options(session, **asked)
    assert Provider(options).alloc
    assert options["device_id"] == "0"
    assert {name: options[name] for name in asked} == {n: str(v) for n, v in asked.items()}


def _open_one(on_card: OpenSession) -> vramx.Session:
    """The test's session, for all of its examples."""
    try:
        return vramx.current_session()
    except vramx.Error:
        return on_card()


# The provider's memory


def test_what_is_allocated_is_the_sessions_and_survives_eviction(
    on_card: OpenSession, loopback: Loopback
) -> None:
    session = on_card()
    provider = Provider(provider_options(session))
    with route(session):
        held = [provider.alloc(3 * MIB) for _ in range(10)]
    for number, address in enumerate(held):
        assert session._core.owned([(address, 3 * MIB)])
        loopback.touch(address, 3 * MIB, write=True)
        ctypes.memset(address, number, 3 * MIB)
    session._core.evict([(address, 3 * MIB) for address in held])
    assert loopback.counts.on_card == 0
    for number, address in enumerate(held):
        assert ctypes.string_at(address, 3 * MIB) == bytes([number]) * (3 * MIB)
    assert session.stats().peak_resident <= 16 * MIB
    for address in held:
        provider.free(address)


def test_an_emptied_cache_gives_back_what_nothing_lives_in(
    on_card: OpenSession, loopback: Loopback
) -> None:
    session = on_card()
    provider = Provider(provider_options(session))
    with route(session):
        kept, freed = provider.alloc(20 * MIB), provider.alloc(20 * MIB)
        provider.free(freed)
        before = loopback.counts.managed
        provider.empty_cache()
        assert 20 * MIB <= loopback.counts.managed < before
        provider.free(kept)
        provider.empty_cache()
        assert loopback.counts.managed == 0


def test_a_failure_is_null_and_told_and_the_next_one_may_succeed(on_card: OpenSession) -> None:
    session = on_card()
    provider = Provider(provider_options(session))
    with route(session):
        assert provider.alloc(65 * MIB) is None
        assert "host_limit" in _core.last_failure()
        assert provider.alloc(0) is None
        address = provider.alloc(MIB)
        assert address is not None
        assert _core.last_failure() == ""
        provider.free(address)


def test_an_error_inside_says_why_the_memory_was_not_to_be_had(on_card: OpenSession) -> None:
    session = on_card()
    provider = Provider(provider_options(session))

    class ProviderError(Exception):
        pass

    with pytest.raises(ProviderError) as caught, route(session):
        assert provider.alloc(2**62) is None
        raise ProviderError
    if hasattr(caught.value, "__notes__"):
        assert caught.value.__notes__[0].startswith("vramx: ")


def test_only_the_routed_thread_is_served(on_card: OpenSession) -> None:
    session = on_card()
    provider = Provider(provider_options(session))
    answers: list[object] = []

    def other() -> None:
        answers.append(provider.alloc(MIB))
        answers.append(_core.last_failure())
        provider.empty_cache()

    with route(session):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert answers[0] is None
    assert "no session" in str(answers[1])
    assert provider.alloc(MIB) is None


def test_memory_may_be_freed_on_any_thread_and_after_the_session(on_card: OpenSession) -> None:
    session = on_card()
    provider = Provider(provider_options(session))
    with route(session):
        first, second = provider.alloc(MIB), provider.alloc(MIB)
        session.close()
        assert provider.alloc(MIB) is None
        assert _core.last_failure()
    ctypes.memset(second, 7, MIB)
    thread = threading.Thread(target=provider.free, args=(first,))
    thread.start()
    thread.join()
    assert ctypes.string_at(second, MIB) == bytes([7]) * MIB
    provider.free(second)
    provider.free(None)
    provider.free(12345)


def test_closed_and_simulated_sessions_are_refused(on_card: OpenSession) -> None:
    session = on_card()
    session.close()
    with pytest.raises(vramx.SessionClosedError):
        provider_options(session)
    with pytest.raises(vramx.SessionClosedError), route(session):
        pass
    inactive = Session(SessionOptions(), device=NoCard())
    with pytest.raises(vramx.ConfigError, match="on_missing"):
        provider_options(inactive)
    inactive.close()
    with vramx.oversubscribe("64MiB", backend="simulated") as simulated:
        with pytest.raises(vramx.ConfigError, match="real card"):
            provider_options(simulated)


# Sessions that run on the card, or not at all


def make(session: vramx.Session, fake: OnnxRuntime, model: bytes, **own: Any) -> Any:
    """Make an inference session as vramx does."""
    options = provider_options(session, **own)
    with told_by_the_provider(session, options):
        made = fake.InferenceSession(model, providers=[(CUDA, options)], enable_fallback=0)
        require_cuda(made)
    return made


def test_what_the_provider_says_as_it_refuses_is_the_error_and_no_cpu_is_tried(
    on_card: OpenSession, fake: OnnxRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    session = on_card()
    with pytest.raises(vramx.DeviceError, match="Unknown provider option: 'no_such'"):
        make(session, fake, b"1", no_such="1")
    assert "Falling back" not in capsys.readouterr().out
    assert make(session, fake, b"1").get_providers()[0] == CUDA


def test_a_provider_that_is_quietly_left_out_is_an_error_that_names_the_missing_library(
    on_card: OpenSession, fake: OnnxRuntime
) -> None:
    fake.library_is_there = False
    with pytest.raises(vramx.DeviceError, match=rf"{CPU}.*not for {CUDA}.*cannot open shared"):
        make(on_card(), fake, b"1")


def test_a_provider_left_out_though_its_library_is_there_points_to_onnxruntime_s_own_words(
    on_card: OpenSession, fake: OnnxRuntime, loopback: Loopback
) -> None:
    fake.library_is_there = False
    library = Path(fake.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir(parents=True)
    library.symlink_to(loopback.path)
    with pytest.raises(vramx.DeviceError, match=r"can be loaded.*wrote why to stderr"):
        make(on_card(), fake, b"1")


def test_memory_that_cannot_be_had_is_out_of_memory_each_time_and_only_then(
    on_card: OpenSession, fake: OnnxRuntime
) -> None:
    session = on_card()
    for _ in range(2):
        with pytest.raises(vramx.OutOfMemoryError, match="host_limit"):
            make(session, fake, str(65 * MIB).encode())
        with pytest.raises(NoSuchFile):
            make(session, fake, b"missing")
    assert make(session, fake, str(MIB).encode()).get_providers()[0] == CUDA


def test_a_run_that_gets_no_memory_is_out_of_memory_and_no_other_failure_is(
    on_card: OpenSession, fake: OnnxRuntime
) -> None:
    class InvalidArgument(Exception):  # noqa: N818
        """As onnxruntime's own."""

    session = on_card()
    model = make(session, fake, str(MIB).encode())
    model.disable_fallback()

    def run(nbytes: int, fault: Exception | None = None) -> None:
        with told_by_a_run(session), route(session):
            if isinstance(fault, InvalidArgument):
                raise fault
            fake.fault = fault
            model.run(nbytes)

    with pytest.raises(vramx.OutOfMemoryError, match="host_limit"):
        run(65 * MIB)
    with pytest.raises(InvalidArgument):
        run(MIB, InvalidArgument("Got invalid dimensions for input"))
    with pytest.raises(EPFail, match="CUDNN"):
        run(MIB, EPFail("CUDNN failure"))
    fake.fault = None  # which holds the model by where it was raised


def test_a_session_that_fell_back_is_an_error(on_card: OpenSession, fake: OnnxRuntime) -> None:
    session = on_card()
    with route(session):
        options = {**provider_options(session), "user_compute_stream": "1"}
        fallen = fake.InferenceSession(b"1", providers=[(CUDA, options)])
    with pytest.raises(vramx.DeviceError, match=f"{CPU} and not for {CUDA}"):
        require_cuda(fallen)


# What a program asks for

TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"
ALL = [TENSORRT, CUDA, CPU]


def chosen(session: vramx.Session, providers: Any, found: list[str] = ALL, **how: Any) -> Any:
    asked = asked_providers(providers, how.get("options"), found)
    got = served_providers(session, asked, found, "1.31.1")
    return None if got is None else [name for name, _ in got]


def test_what_is_asked_of_the_card_is_served_by_cuda_with_its_options(on_card: OpenSession) -> None:
    session = on_card()
    assert chosen(session, [CUDA, CPU]) == [CUDA, CPU]
    assert chosen(session, [CPU]) is None
    for providers, options in (
        ([(CUDA, {"use_tf32": 0}), CPU], None),
        ([CUDA, CPU], [{"use_tf32": 0}, {}]),
    ):
        asked = asked_providers(providers, options, ALL)
        (got, *_) = served_providers(session, asked, ALL, "1.31.1") or [("", {})]
        assert got == (CUDA, provider_options(session, use_tf32=0))
    with pytest.raises(vramx.ConfigError, match="enable_cuda_graph"):
        chosen(session, [(CUDA, {"enable_cuda_graph": "1"})])


def test_engines_are_left_out_beside_cuda_and_refused_alone_each_by_name(
    on_card: OpenSession,
) -> None:
    session = on_card()
    for asked in (ALL, None):
        with pytest.warns(RuntimeWarning, match=f"{TENSORRT} out"):
            assert chosen(session, asked) == [CUDA, CPU]
    with pytest.raises(vramx.ConfigError, match=f"{TENSORRT} builds engines"):
        chosen(session, [TENSORRT, CPU])
    with pytest.warns(RuntimeWarning, match=f"{OPENVINO} alone"):
        assert chosen(session, [OPENVINO, CPU]) is None


# The package for the CPU, which is installed here

#: A model whose output is what its input is not: Neg of two floats.
NEG = bytes.fromhex(
    "08083a320a0b0a017812017922034e65671201675a0f0a0178120a0a08080112040a02080262"
    "0f0a0179120a0a08080112040a02080242040a001011"
)


def test_the_package_for_the_cpu_is_an_error_that_says_what_to_install(
    on_card: OpenSession,
) -> None:
    session = on_card()
    assert CUDA not in onnxruntime.get_available_providers()
    with pytest.raises(vramx.ConfigError, match=r"has no CUDA.*onnxruntime-gpu\[cuda,cudnn\]"):
        inference_session(session, NEG)
    with pytest.warns(UserWarning, match=CUDA):
        model = onnxruntime.InferenceSession(NEG, providers=[(CUDA, provider_options(session))])
    with pytest.raises(vramx.DeviceError, match=f"{CPU} and not for {CUDA}"):
        require_cuda(model)


def test_no_package_is_an_error_that_says_what_to_install(
    on_card: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(vramx.ConfigError, match=r"cannot be imported.*onnxruntime-gpu"):
        inference_session(on_card(), NEG)
