"""The C symbols that ONNX Runtime calls, called as it does, over the stand-in driver."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import pytest

import vramx
from loopback.control import Loopback
from vramx import _core
from vramx.inactive import InactiveSession
from vramx.integrations.onnxruntime import provider_options, route

pytest_plugins = ("loopback.fixture",)

MIB = 2**20


OpenSession = Callable[[], vramx.Session]


class Provider:
    """ONNX Runtime's CUDA provider, as far as it uses the options."""

    def __init__(self, options: dict[str, str]) -> None:
        self.alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(
            int(options["gpu_external_alloc"])
        )
        self.free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(options["gpu_external_free"]))
        self.empty_cache = ctypes.CFUNCTYPE(None)(int(options["gpu_external_empty_cache"]))


def test_options_are_text_and_name_the_card_and_the_default_stream(on_card: OpenSession) -> None:
    session = on_card()
    options = provider_options(session)
    assert all(isinstance(value, str) and value.isdecimal() for value in options.values())
    assert (options["device_id"], options["user_compute_stream"]) == ("0", "1")


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
    inactive = InactiveSession()
    with pytest.raises(vramx.ConfigError, match="on_missing"):
        provider_options(inactive)
    inactive.close()
    with vramx.oversubscribe("64MiB", backend="simulated") as simulated:
        with pytest.raises(vramx.ConfigError, match="real card"):
            provider_options(simulated)
