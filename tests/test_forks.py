"""Forks and ends of processes with sessions, each in a process of its own.

A child that hangs must not hang the tests.
"""

from __future__ import annotations

import textwrap

import pytest

from child import run_child
from forkserver import run_forked

FORKED = """
    import gc, os, signal, sys
    import torch
    from torch import nn
    import vramx
    from vramx import _core

    BLOCK = 64 * 2**10

    def in_child(work):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # what hangs is brought down
            try:
                work()
                code = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                code = 1
            os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    def refused(name, act):
        try:
            act()
        except vramx.SessionClosedError as error:
            assert "fork" in str(error), error
            return
        raise AssertionError(f"{name} was not refused")
"""


def test_a_forked_child_that_uses_a_session_gets_a_clear_error() -> None:
    run_forked(
        textwrap.dedent(FORKED)
        + textwrap.dedent("""
        vramx.simulate(capacity=64 * BLOCK, memory="managed")
        x = torch.ones(1, 128)
        with vramx.oversubscribe(4 * BLOCK, backend="simulated", block=BLOCK) as session:
            torch.manual_seed(0)
            model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(6)))
            expected = model(x)
            session.manage(model)
            mine = session.empty(4).fill_(3)
            model(x)

            def child():
                refused("forward", lambda: model(x))
                refused("manage", lambda: session.manage(nn.Linear(2, 2)))
                refused("unmanage", lambda: session.unmanage(model))
                refused("empty", lambda: session.empty(4))
                refused("prefetch", lambda: session.prefetch(model))
                refused("evict", lambda: session.evict(model))
                refused("pin", lambda: session.pin(model).__enter__())
                refused("advise", lambda: session.advise(model, vramx.Advice.READ_MOSTLY))
                refused("written", lambda: session.written(model))
                refused("set_budget", lambda: session.set_budget(BLOCK))
                refused("close", session.close)
                refused("read", lambda: model[0].weight.sum())

            in_child(child)
            assert torch.equal(model(x), expected)
            assert torch.equal(mine.clone(), torch.full((4,), 3.0))
        """)
    )


def test_a_forked_child_s_own_work_goes_on() -> None:
    run_forked(
        textwrap.dedent(FORKED)
        + textwrap.dedent("""
        vramx.simulate(capacity=64 * BLOCK)
        with vramx.oversubscribe(4 * BLOCK, backend="simulated", block=BLOCK) as session:
            model = session.manage(nn.Linear(128, 128))

            def child():
                assert float(torch.ones(4).add_(1).sum()) == 8
                with vramx.oversubscribe(BLOCK, backend="simulated", block=BLOCK) as own:
                    own.manage(nn.Linear(4, 4))(torch.ones(1, 4))
                    assert torch.equal(own.empty(4).fill_(3), torch.full((4,), 3.0))

            in_child(child)
        """)
    )


@pytest.mark.parametrize("threaded", [False, True], ids=["no mover thread", "a mover thread"])
def test_a_forked_child_lets_go_of_a_session_and_ends(threaded: bool) -> None:
    run_forked(
        textwrap.dedent(FORKED)
        + textwrap.dedent(f"""
        device = _core.SimulatedDevice(capacity=64 * BLOCK, link_up=1e9, link_down=1e9, latency=0,
            lanes=2, granule=4096, host_memory=2**40, reads_over_link=True, host_addresses=True,
            check_drops=False)
        core = _core.Core(device=device, budget=4 * BLOCK, block=BLOCK, policy="lru",
            threaded={threaded}, host_limit=2**63)
        memories = core.reserve([BLOCK] * 2, _core.Purpose.WEIGHTS) + [core.empty(100, 0)]
        ranges = [(each.address, each.nbytes) for each in memories]
        group = core.define(ranges)
        core.acquire(group, 0)

        def child():
            global core, memories, device
            refused("acquire", lambda: core.acquire(group, 0))
            refused("evict", lambda: core.evict(ranges))
            del memories, core, device
            gc.collect()

        in_child(child)
        core.release(group, 0)
        core.evict(ranges)
        assert device.on_card == 0
        """)
    )


def test_a_session_left_open_does_not_disturb_the_end_of_the_process() -> None:
    out = run_child("""
        import torch, vramx
        vramx.simulate(capacity="1MiB")
        session = vramx.oversubscribe("512KiB", backend="simulated", block="64KiB")
        model = session.manage(torch.nn.Linear(128, 128))
        x = session.empty(10)
        session.__enter__()
        model(torch.ones(1, 128))
        print("fine")
    """)
    assert out == "fine\n"
