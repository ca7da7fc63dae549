"""ONNX Runtime's weights in a session's memory: the same bits, on the card while they are used.

The real onnxruntime computes on the CPU, which plays the simulated card. Without packed copies of
its own, as here, it sums in another order than with them, so stock is asked to do without too.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vramx
from vramx import _core

pytest.importorskip("onnx", reason="vramx reads models with onnx: pip install 'vramx[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", minversion="1.28")
from onnx_models import LAYERS, WIDTH, feed, write_model  # noqa: E402
from vramx.integrations.onnxruntime import inference_session, optimising, serve  # noqa: E402

onnxruntime.set_default_logger_severity(3)  # it warns of initializers that are inputs

KIB = 2**10
CPU = "CPUExecutionProvider"
OpenSession = Callable[..., vramx.Session]
#: What a weight of a MatMul takes.
WEIGHT = WIDTH * WIDTH * 4


def plain_options() -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def stock(model: Any, options: Any = None) -> Any:
    return onnxruntime.InferenceSession(model, options or plain_options(), providers=[CPU])


def same(outs: list[Any], expected: list[Any]) -> bool:
    return len(outs) == len(expected) and all(map(np.array_equal, outs, expected))


@pytest.fixture
def small(open_session: OpenSession) -> Callable[[int], vramx.Session]:
    """Opens a session of blocks of 4 KiB."""
    return lambda budget: open_session(budget, block="4KiB")


def rows(session: vramx.Session) -> dict[str, vramx.ModuleStats]:
    return {row.name: row for row in session.modules()}


KINDS = st.fixed_dictionaries({name: st.booleans() for name in ("external", "inputs", "output")})
CHOSEN = st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(layers=CHOSEN, others=CHOSEN, how=KINDS)
def test_any_models_that_take_turns_in_too_small_a_budget_give_the_same_bits(
    layers: list[str],
    others: list[str],
    how: dict[str, bool],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("models")
    paths = [
        write_model(folder / "a.onnx", layers, 1, **how),
        write_model(folder / "b.onnx", [*others, "matmul"], 2),
    ]
    expected = [[stock(path).run(None, feed(turn)) for turn in range(3)] for path in paths]
    with (
        vramx.simulate(capacity="64MiB", granule="4KiB"),
        vramx.oversubscribe("32MiB", backend="simulated", block="4KiB") as session,
    ):
        models = [inference_session(session, path) for path in paths]
        weights = [row.nbytes for row in session.modules()]
        blocks = [4 * KIB * row.blocks for row in session.modules()]
        session.set_budget(max(*blocks, 4 * KIB))
        for turn in range(3):
            for model, outs in zip(models, expected):
                assert same(model.run(None, feed(turn)), outs[turn])
        stats = session.stats()
        assert stats.managed >= sum(weights) > 0
        assert stats.moved_out == stats.over_link == 0
        assert min(weights) == 0 or stats.moved_in > max(blocks)


def test_weights_that_nobody_leases_are_not_there_to_be_read(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    _core.set_moments(_core.Moment.EARLIEST, 0)  # what has left is overwritten at once
    session = small(32 * KIB)
    path = write_model(tmp_path / "a.onnx", ["matmul"])
    model = inference_session(session, path)
    expected = stock(path).run(None, feed())
    assert same(model.run(None, feed()), expected)
    session._core.evict(model._vramx_weights._ranges)
    unleased = model._sess.run([out.name for out in model.get_outputs()], feed(), None)
    assert not same(unleased, expected)
    assert same(model.run(None, feed()), expected)


def test_all_ways_to_run_are_under_a_lease(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(32 * KIB)
    path = write_model(tmp_path / "a.onnx", ["matmul"])
    model = inference_session(session, path)
    expected = stock(path).run(None, feed())
    out = model.get_outputs()[0].name
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(v) for name, v in feed().items()}

    def binding() -> list[Any]:
        bound = model.io_binding()
        for name, value in values.items():
            bound.bind_ortvalue_input(name, value)
        bound.bind_output(out)
        model.run_with_iobinding(bound)
        return list(bound.copy_outputs_to_cpu())

    def async_run() -> list[Any]:
        done, told = threading.Event(), []

        def callback(results: Any, user_data: Any, error: str) -> None:
            told.append((results, user_data, error))
            done.set()

        model.run_async(None, feed(), callback, 7)
        assert done.wait(60)
        ((results, user_data, error),) = told
        assert (user_data, error) == (7, "")
        return list(results)

    ways = (
        lambda: model.run([out], feed()),
        lambda: [each.numpy() for each in model.run_with_ort_values([out], values)],
        binding,
        async_run,
    )
    for number, way in enumerate(ways, 1):
        session._core.evict(model._vramx_weights._ranges)
        assert same(way(), expected)
        assert rows(session)["a.onnx"].uses == number
    assert session.stats().leased == 0


def test_a_run_that_fails_leaves_nothing_leased_and_says_what_stock_says(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(32 * KIB)
    model = inference_session(session, write_model(tmp_path / "a.onnx", ["matmul"]))
    wrong = {**feed(), "x": np.zeros((1, 5), np.float32)}
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        model.run(None, wrong)
    with pytest.raises(ValueError, match="missing from input feed"):
        model.run_async(None, {}, print, None)
    told: list[Any] = []
    done = threading.Event()
    model.run_async(None, wrong, lambda *all_of_it: (told.extend(all_of_it), done.set()), None)
    assert done.wait(60)
    assert told[0] == []
    assert "INVALID_ARGUMENT" in told[2]
    assert session.stats().leased == 0


def test_threads_with_models_of_their_own_and_one_in_common_get_the_same_bits(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(48 * KIB)
    paths = [write_model(tmp_path / f"{n}.onnx", ["matmul", "shared"], n) for n in range(3)]
    expected = [[stock(path).run(None, feed(turn)) for turn in range(4)] for path in paths]
    common = inference_session(session, paths[2])
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            own = inference_session(session, paths[number])
            for turn in range(4):
                for model, outs in ((own, expected[number]), (common, expected[2])):
                    if not same(model.run(None, feed(turn)), outs[turn]):
                        wrong.append((number, turn))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert session.stats().peak_resident <= 48 * KIB


def test_models_that_are_the_same_to_the_byte_share_their_weights(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(64 * KIB)
    path = write_model(tmp_path / "a.onnx", ["matmul"])
    first = inference_session(session, path)
    managed = session.stats().managed
    again = [inference_session(session, path), inference_session(session, path.read_bytes())]
    assert session.stats().managed == managed
    for model in (first, *again):
        assert same(model.run(None, feed()), stock(path).run(None, feed()))
    assert rows(session)["a.onnx"].uses == 3
    write_model(path, ["matmul"], 5)
    inference_session(session, path)
    assert [*rows(session)] == ["a.onnx", "a.onnx (2)"]


def test_a_dropped_sessions_memory_is_given_back_and_its_counts_stay(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(32 * KIB)
    path = write_model(tmp_path / "a.onnx", ["matmul"])
    groups = set()
    for number in (1, 2, 3):
        model = inference_session(session, path)
        model.run(None, feed())
        groups.add(model._vramx_weights._group)
        del model
        gc.collect()
        assert session.stats().managed == 0
        assert [(row.uses, row.moved_in) for row in session.modules()] == [(1, WEIGHT)] * number
    assert len(groups) == 1  # of what is leased together: the next one gets that of the last


def test_a_model_larger_than_the_budget_is_refused_with_both_sizes(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(16 * KIB)
    path = write_model(tmp_path / "large.onnx", ["matmul", "matmul"])
    with pytest.raises(vramx.OutOfMemoryError, match=r"large\.onnx .* 32\.00 KiB.* 16\.00 KiB"):
        inference_session(session, path)
    gc.collect()
    assert session.stats().managed == 0


def test_weights_of_models_in_turns_are_fetched_ahead(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(48 * KIB)
    paths = [write_model(tmp_path / f"{n}.onnx", ["matmul"], n) for n in range(6)]
    models = [inference_session(session, path) for path in paths]
    for _ in range(6):
        for model in models:
            model.run(None, feed())
    ahead = [row.fetched.get("order", 0) + row.fetched.get("plan", 0) for row in session.modules()]
    assert sum(ahead) > 0
    assert session.stats().moved_out == 0


def test_weights_get_packed_copies_where_the_session_wants_them_and_the_same_bits(
    open_session: OpenSession, tmp_path: Path
) -> None:
    paths = [write_model(tmp_path / f"{n}.onnx", ["matmul", "half"] * 8, n) for n in range(2)]
    expected = [stock(path).run(None, feed()) for path in paths]
    for compress, budget, count in (("always", "1MiB", 1), ("auto", "256KiB", 2), ("never", 0, 2)):
        session = open_session(budget or "256KiB", compress=compress, unpack_rate=400e9)
        models = [inference_session(session, path) for path in paths[:count]]
        for _ in range(3):
            for model, outs in zip(models, expected):
                assert same(model.run(None, feed()), outs)
        assert (session.stats().packed_on_host > 0) == (compress != "never")
        session.close()


def test_a_run_after_the_session_is_closed_is_refused(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(32 * KIB)
    model = inference_session(session, write_model(tmp_path / "a.onnx", ["matmul"]))
    session.close()
    with pytest.raises(vramx.SessionClosedError):
        model.run(None, feed())
    with pytest.raises(vramx.SessionClosedError):
        inference_session(session, tmp_path / "a.onnx")


# What programs do to the class and to options


def test_subclasses_and_all_that_is_made_while_a_session_serves_are_served(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    class Own(onnxruntime.InferenceSession):
        def __init__(self, path: Path) -> None:
            super().__init__(path, plain_options(), providers=["CUDAExecutionProvider", CPU])

        def run(self, names: Any, inputs: Any, options: Any = None) -> Any:
            return super().run(names, inputs, options)

    session = small(32 * KIB)
    path = write_model(tmp_path / "a.onnx", ["matmul"])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):  # of onnxruntime, unserved
        unserved = Own(path)
    with serve(session):
        model = Own(path)
    assert same(model.run(None, feed()), stock(path).run(None, feed()))
    unserved.run(None, feed())
    assert [row.uses for row in session.modules()] == [1]
    model.set_providers([CPU])  # which makes it anew, and stock, now that nobody serves
    model.run(None, feed())
    gc.collect()
    assert session.stats().managed == 0


def test_the_programs_options_hold_and_stay_its_own(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(64 * KIB)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "0")
    paths = [write_model(tmp_path / f"{n}.onnx", ["conv", "shared"], n) for n in range(2)]
    models = [inference_session(session, path, options) for path in paths]
    for model, path in zip(models, paths):
        alike = plain_options()
        alike.graph_optimization_level = options.graph_optimization_level
        assert same(model.run(None, feed()), stock(path, alike).run(None, feed()))
        own = model.get_session_options()
        assert own.intra_op_num_threads == 1
        assert own.graph_optimization_level == options.graph_optimization_level
        assert own.get_session_config_entry("session.use_env_allocators") == "0"
    assert options.optimized_model_filepath == ""
    with pytest.raises(RuntimeError):
        options.get_session_config_entry("session.disable_prepacking")


def test_optimisers_that_a_program_leaves_out_are_left_out(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(32 * KIB)
    path = write_model(tmp_path / "a.onnx", ["folded"])
    given = {"providers": [CPU], "disabled_optimizers": {"ConstantFolding"}}
    expected = onnxruntime.InferenceSession(path, plain_options(), **given).run(None, feed())
    with serve(session):
        model = onnxruntime.InferenceSession(path, plain_options(), **given)
    assert same(model.run(None, feed()), expected)
    assert rows(session)["a.onnx"].nbytes == WEIGHT  # a folded one would be in the graph


def test_options_of_a_served_session_make_another_as_the_programs_own_do(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(64 * KIB)
    # Their weights have the same names.
    paths = [write_model(tmp_path / f"{n}.onnx", ["conv", "matmul"], n) for n in range(2)]
    options = inference_session(session, paths[0], plain_options()).get_session_options()
    assert options.graph_optimization_level == plain_options().graph_optimization_level
    expected = stock(paths[1]).run(None, feed())
    for again in (stock(paths[1], options), inference_session(session, paths[1], options)):
        assert same(again.run(None, feed()), expected)


def test_an_initializer_that_is_an_input_can_still_be_given_another_value(
    small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(32 * KIB)
    path = write_model(tmp_path / "a.onnx", ["matmul"], inputs=True)
    model = inference_session(session, path)
    (name,) = [each.name for each in model.get_overridable_initializers()]
    inputs = {**feed(), name: np.eye(WIDTH, dtype=np.float32)}
    assert same(model.run(None, inputs), stock(path).run(None, inputs))
    assert rows(session)["a.onnx"].nbytes == WEIGHT


def test_weights_that_another_provider_uses_stay_in_the_graph(
    small: Callable[[int], vramx.Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = small(64 * KIB)
    path = write_model(tmp_path / "a.onnx", ["gemm", "matmul", "branches"])
    made = optimising.make_native

    class Elsewhere:
        """Says that one kind of operation is another provider's."""

        def __init__(self, of: Any) -> None:
            self.of = of

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return [
                SimpleNamespace(
                    ep_name=part.ep_name,
                    get_nodes=lambda part=part: [
                        node for node in part.get_nodes() if node.op_type != "MatMul"
                    ],
                )
                for part in self.of.get_provider_graph_assignment_info()
            ]

    monkeypatch.setattr(optimising, "make_native", lambda *given: Elsewhere(made(*given)))
    model = inference_session(session, path)
    assert rows(session)["a.onnx"].nbytes == WEIGHT  # of the Gemm
    for turn in range(2):
        assert same(model.run(None, feed(turn)), stock(path).run(None, feed(turn)))


@pytest.mark.parametrize("of", ["bytes", "path"])
def test_what_cannot_be_taken_apart_is_refused_by_name(
    of: str, small: Callable[[int], vramx.Session], tmp_path: Path
) -> None:
    session = small(32 * KIB)
    model: Any = write_model(tmp_path / "a.onnx", ["matmul"])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "made.ort")
    stock(model, options)
    with pytest.raises(vramx.ConfigError, match="optimized_model_filepath"):
        inference_session(session, model, options)
    own = onnxruntime.SessionOptions()
    own.add_provider(CPU, {})
    with pytest.raises(vramx.ConfigError, match="providers of their own"), serve(session):
        onnxruntime.InferenceSession(model, own)
    ort = tmp_path / "made.ort"
    with pytest.raises(vramx.ConfigError, match="the ORT format"):
        inference_session(session, ort.read_bytes() if of == "bytes" else ort)


def test_a_file_that_is_no_model_is_told_as_stock_tells_it(
    small: Callable[[int], vramx.Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = small(32 * KIB)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing of the kind")
    for path in (broken, tmp_path / "missing.onnx"):
        with pytest.raises(Exception, match=path.name) as ours:
            inference_session(session, path)
        with pytest.raises(type(ours.value)):
            stock(path)
    assert "Falling back" not in capsys.readouterr().out
