"""Scripted and exported modules are managed whole: they do not call the modules in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import vramx

BLOCK = 64 * 2**10


def network(linears: Callable[..., nn.Sequential]) -> nn.Sequential:
    return nn.Sequential(linears(4), nn.BatchNorm1d(128)).eval()


def exported(module: nn.Module) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("n")},)
    return torch.export.export(module, (torch.rand(2, 128),), dynamic_shapes=shapes)


PROGRAMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "scripted": torch.jit.script,
    "exported": lambda module: exported(module).module(),
    "unflattened": lambda module: torch.export.unflatten(exported(module)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_gives_the_bits_of_its_module_and_drops_its_weights(
    open_session: Callable[..., vramx.Session], linears: Callable[..., Any], kind: str
) -> None:
    model = network(linears)
    x = torch.randn(3, 128)
    with torch.inference_mode():
        wanted = model(x)
    program = PROGRAMS[kind](model)
    other = linears(8, seed=1)
    with open_session(8 * BLOCK) as session, torch.inference_mode():
        session.manage(program)
        session.manage(other)
        for _ in range(3):
            assert torch.equal(program(x), wanted)
            other(x)
        stats = session.stats()
        assert stats.unleased_accesses == 0
        assert stats.peak_resident <= 8 * BLOCK
        assert stats.dropped >= 4 * BLOCK
        assert stats.moved_out < stats.dropped / 4  # buffers count as written
        assert len(session.modules()) == 8 + (5 if kind == "unflattened" else 1)
    assert torch.equal(program(x), wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_write_to_a_scripted_modules_weight_survives(
    open_session: Callable[..., vramx.Session], linears: Callable[..., Any]
) -> None:
    program: Any = torch.jit.script(network(linears))
    x = torch.randn(3, 128)
    before = program(x)
    with open_session(8 * BLOCK) as session, torch.no_grad():
        session.manage(program)
        program(x)
        for parameter in program.parameters():
            parameter.mul_(2)
        session.evict(program)
        changed = program(x)
        assert not torch.equal(changed, before)
    assert torch.equal(program(x), changed)
