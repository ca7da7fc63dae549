"""A managed module's call does what torch's own does, hooks and all, and no more."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as of_all

import vramx
from vramx.integrations.torch.internals.own_calls import hook_places

BLOCK = 64 * 2**10
OpenSession = Callable[..., vramx.Session]
Linears = Callable[..., nn.Sequential]
Log = list[Any]


def before(log: Log) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any) -> Any:
        log.append(("before", type(module).__name__, len(args)))
        return (args[0] + 1,) if isinstance(module, nn.Linear) else None

    return hook


def before_with_kwargs(log: Log) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        log.append(("before", type(module).__name__, sorted(kwargs)))
        return args, kwargs

    return hook


def after(log: Log) -> Callable[..., Any]:
    def hook(module: nn.Module, _args: Any, out: Any) -> Any:
        log.append(("after", type(module).__name__))
        return out * 2 if isinstance(module, nn.Linear) else None

    return hook


def of_gradients(log: Log) -> Callable[..., Any]:
    return lambda module, *_: log.append(("gradients", type(module).__name__))


#: Each takes a module and what to note calls in, and returns what removes the hook.
KINDS: dict[str, Callable[[nn.Module, Log], Any]] = {
    "forward_pre": lambda m, log: m.register_forward_pre_hook(before(log)),
    "forward_pre_with_kwargs": lambda m, log: m.register_forward_pre_hook(
        before_with_kwargs(log), with_kwargs=True
    ),
    "forward": lambda m, log: m.register_forward_hook(after(log)),
    "forward_always": lambda m, log: m.register_forward_hook(after(log), always_call=True),
    "full_backward": lambda m, log: m.register_full_backward_hook(of_gradients(log)),
    "full_backward_pre": lambda m, log: m.register_full_backward_pre_hook(of_gradients(log)),
    "global_forward_pre": lambda _, log: of_all.register_module_forward_pre_hook(before(log)),
    "global_forward": lambda _, log: of_all.register_module_forward_hook(after(log)),
    "global_full_backward": lambda _, log: of_all.register_module_full_backward_hook(
        of_gradients(log)
    ),
    "global_full_backward_pre": lambda _, log: of_all.register_module_full_backward_pre_hook(
        of_gradients(log)
    ),
}


def run(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return what comes out, and the gradient that reaches what goes in."""
    x = x.clone().requires_grad_()
    out = model(x)
    out.sum().backward()
    return [out.detach(), x.grad]  # type: ignore[list-item]


def frames_of(code: Any, call: Callable[[], Any]) -> int:
    """Count the frames of some code in a call."""
    count = 0

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is code

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("hooked_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_hook_is_called(
    kind: str, hooked_first: bool, open_session: OpenSession, linears: Linears
) -> None:
    plain, managed, x = linears(3), linears(3), torch.rand(2, 128)
    managed.load_state_dict(plain.state_dict())
    logs: dict[str, Log] = {"plain": [], "managed": []}
    hook = KINDS[kind](plain[1], logs["plain"])
    expected = run(plain, x)
    unhooked_log = len(logs["plain"])
    hook.remove()
    unhooked = run(plain, x)
    assert unhooked_log == len(logs["plain"]) > 0

    session = open_session(8 * BLOCK)  # gradients are computed outside leases
    if not hooked_first:
        session.manage(managed)
    hook = KINDS[kind](managed[1], logs["managed"])
    if hooked_first:
        session.manage(managed)
    assert all(map(torch.equal, run(managed, x), expected))
    assert logs["managed"] == logs["plain"]
    hook.remove()
    assert all(map(torch.equal, run(managed, x), unhooked))
    assert logs["managed"] == logs["plain"]


def test_torch_s_own_way_is_gone_only_where_something_is_hooked(
    open_session: OpenSession, linears: Linears
) -> None:
    model, x = linears(4), torch.rand(1, 128)
    open_session(2 * BLOCK).manage(model)
    own = nn.Module._call_impl.__code__
    assert frames_of(own, lambda: model(x)) == 1  # of the whole, which is called once a pass
    hook = model[2].register_forward_hook(lambda *_: None)
    assert frames_of(own, lambda: model(x)) == 2
    hook.remove()
    model[1]._forward_hooks = OrderedDict({0: lambda *_: None})
    assert frames_of(own, lambda: model(x)) == 2


def test_a_traced_module_has_its_scopes(open_session: OpenSession, linears: Linears) -> None:
    plain, managed, x = linears(2), linears(2), torch.rand(1, 128)
    managed.load_state_dict(plain.state_dict())
    open_session(4 * BLOCK).manage(managed)
    graphs = [str(torch.jit.trace(each, x).inlined_graph) for each in (plain, managed)]
    plain_graph, managed_graph = (re.sub(r"___torch_mangle_\d+\.", "", each) for each in graphs)
    assert managed_graph == plain_graph
    assert "scope: __module.1" in managed_graph


class Doubles(nn.Linear):
    """Does something about its own call."""

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super()._call_impl(*args, **kwargs)


def test_a_replaced_call_or_forward_is_what_is_called(
    open_session: OpenSession, linears: Linears
) -> None:
    model, x = linears(3), torch.rand(1, 128)
    model[1] = Doubles(128, 128, bias=False)
    expected = 2 * model[1].weight @ model[0](x)[0]
    open_session(4 * BLOCK).manage(model)
    torch.testing.assert_close(model[1](model[0](x))[0], expected)
    model[2].forward = lambda x: x + 1
    assert torch.equal(model[2](x), x + 1)
    del model[2].forward
    assert torch.equal(model[2](x), nn.functional.linear(x, model[2].weight))


def test_where_hooks_are_looked_for_is_told_only_of_a_call_like_torch_s() -> None:
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return nn.Module._call_impl(self, *args, **kwargs)

    code = nn.Module._call_impl.__code__
    names = (*code.co_names, "_new_hooks")
    of_a_new_kind = FunctionType(code.replace(co_names=names), vars(of_all))
    of_known_kinds = FunctionType(code, vars(of_all))
    assert hook_places(of_known_kinds) is not None
    places = hook_places(nn.Module._call_impl)
    assert places is not None
    assert hook_places(wrapped) is None
    assert hook_places(of_a_new_kind) is None
    module = nn.Linear(1, 1)
    assert places.none(module)
    module.register_forward_hook(lambda *_: None)
    assert not places.none(module)
