"""Pipelines: objects whose components are modules and other things, as diffusers has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import vramx

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

BLOCK = 64 * 2**10

OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]


class Pipeline:
    """The shape of a diffusers pipeline: an encoder once, a denoiser often, a decoder once."""

    def __init__(self, encoder: nn.Module, denoiser: nn.Module, decoder: nn.Module) -> None:
        self.components: dict[str, Any] = {
            "tokenizer": str.split,
            "text_encoder": encoder,
            "unet": denoiser,
            "safety_checker": None,
            "vae": decoder,
            "scheduler": object(),
        }

    @torch.no_grad()
    def __call__(self, x: Any, steps: int = 3) -> Any:
        parts = self.components
        y = parts["text_encoder"](x)
        for _ in range(steps):
            y = torch.tanh(parts["unet"](y))
        return parts["vae"](y)


@pytest.fixture
def pipeline(linears: Linears) -> Pipeline:
    return Pipeline(linears(4, seed=1), linears(8, seed=2), linears(4, seed=3))


def places(pipe: Pipeline) -> dict[str, int]:
    return {
        f"{name}.{key}": tensor.data_ptr()
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module)
        for key, tensor in part.state_dict().items()
    }


def test_a_managed_pipeline_gives_the_same_bits_within_its_budget(
    open_session: OpenSession, pipeline: Pipeline
) -> None:
    x = torch.ones(2, 128)
    expected = pipeline(x)
    before = places(pipeline)
    with open_session(4 * BLOCK) as session:
        assert session.manage(pipeline) is pipeline
        assert not set(places(pipeline).values()) & set(before.values())
        for _ in range(3):
            assert torch.equal(pipeline(x), expected)
        stats = session.stats()
        assert stats.managed == 16 * BLOCK
        assert stats.peak_resident <= 4 * BLOCK
        assert stats.passes == 3 * 5
        for name in ("text_encoder", "unet", "vae"):
            assert f"Pipeline.{name}" in session.report()
        assert session.unmanage(pipeline) is pipeline
        assert session.stats().managed == 0
        assert torch.equal(pipeline(x), expected)
        session.manage(pipeline, name="painter")
        assert "painter.vae" in session.report()
    assert torch.equal(pipeline(x), expected)


def test_verbs_take_a_pipeline(open_session: OpenSession, pipeline: Pipeline) -> None:
    session = open_session(32 * BLOCK, compress="never")  # what packed bytes arrive in stays
    session.manage(pipeline)
    with session.pin(pipeline):
        assert session.stats().resident == 16 * BLOCK
        with pytest.raises(vramx.InUseError):
            session.evict(pipeline)
    session.evict(pipeline)
    assert session.stats().resident == 0


def test_a_component_with_two_names_is_managed_once(
    open_session: OpenSession, linears: Linears
) -> None:
    shared = linears(4)
    pipe = Pipeline(shared, shared, linears(4, seed=1))
    expected = pipe(x := torch.ones(1, 128))
    session = open_session(2 * BLOCK)
    session.manage(pipe)
    assert session.stats().managed == 8 * BLOCK
    assert torch.equal(pipe(x), expected)
    session.unmanage(pipe)
    assert session.stats().managed == 0


@pytest.mark.parametrize("fault", ["meta", "hooked", "shared", "memory"])
def test_a_pipeline_of_which_one_part_is_refused_is_left_as_it_was(
    open_session: OpenSession, pipeline: Pipeline, fault: str
) -> None:
    limit, error = None, vramx.ConfigError
    if fault == "meta":
        pipeline.components["vae"] = nn.Linear(4, 4, device="meta")
    elif fault == "hooked":
        pipeline.components["vae"][2]._hf_hook = object()
    elif fault == "shared":
        pipeline.components["vae"][0].weight = pipeline.components["unet"][0].weight
    else:
        limit, error = 13 * BLOCK, vramx.OutOfMemoryError
    before = places(pipeline)
    session = open_session(4 * BLOCK, host_limit=limit)
    with pytest.raises(error):
        session.manage(pipeline)
    assert session.stats().managed == 0
    calls = [each.__dict__.get("_compiled_call_impl") for each in pipeline.components["unet"]]
    assert calls == [None] * 8
    now = places(pipeline)
    assert now.keys() == before.keys()
    if fault in ("hooked", "meta"):
        # The rest can be managed once the part is out of the way.
        pipeline.components["vae"] = None
        session.manage(pipeline)
        assert session.stats().managed == 12 * BLOCK


def test_a_pipeline_in_use_stays_managed_as_a_whole(
    open_session: OpenSession, pipeline: Pipeline
) -> None:
    session = open_session(8 * BLOCK)
    session.manage(pipeline)
    where = places(pipeline)
    with session.pin(pipeline.components["vae"]):
        with pytest.raises(vramx.InUseError):
            session.unmanage(pipeline)
        assert session.stats().managed == 16 * BLOCK
    assert places(pipeline) == where
    session.unmanage(pipeline)
    assert session.stats().managed == 0


def test_what_is_no_pipeline_is_refused(open_session: OpenSession, pipeline: Pipeline) -> None:
    session = open_session()

    class Empty:
        components: dict[str, Any] = {"scheduler": object()}  # noqa: RUF012

    for thing in (Empty(), Empty, "model", None):
        with pytest.raises(vramx.ConfigError, match="nor a pipeline"):
            session.manage(thing)
    with pytest.raises(vramx.ConfigError, match="manages"):
        session.unmanage(pipeline)
    session.manage(pipeline.components["unet"])
    with pytest.raises(vramx.ConfigError, match="manages"):
        session.unmanage(pipeline)
    with pytest.raises(vramx.ConfigError, match="managed already"):
        session.manage(pipeline)
    assert session.stats().managed == 8 * BLOCK


def test_a_module_with_components_of_its_own_is_a_module(
    open_session: OpenSession, linears: Linears
) -> None:
    module = linears(4)
    module.components = {"part": module[0]}
    session = open_session()
    session.manage(module)
    assert session.stats().managed == 4 * BLOCK
