"""What `vramx monitor` sees of all processes, and what is left of those that were killed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rich.console
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import vramx
from child import run_child
from vramx.cards.nvml import CardMemory
from vramx.cli import main
from vramx.doctor.machine import Card
from vramx.monitor import look
from vramx.monitor.snapshot import rates_between
from vramx.processes.publishing import address_of
from vramx.session.describing import describe_process

MIB = 2**20
OpenSession = Callable[..., vramx.Session]

pytestmark = pytest.mark.usefixtures("no_open_session")

HOLD = """
    import os, sys
    import vramx

    with vramx.simulate(capacity="64MiB"):
        session = vramx.oversubscribe("8MiB", backend="simulated", block="1MiB")
    array = session.empty(3 * 2**20, "uint8")
"""
READY = """
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where processes of the test find each other; its path is longer than a socket's address."""
    long = tmp_path / ("long" * 30)
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(long))
    return long


def sockets(folder: Path) -> list[str]:
    return [path.name for path in (folder / "sessions").glob("*")]


@contextlib.contextmanager
def process(*codes: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has run some code; it is killed at the end if need be."""
    code = "".join(map(textwrap.dedent, (*codes, READY)))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["monitor", *map(str, arguments)])


def test_every_open_session_of_every_process_is_seen_until_it_is_closed(
    open_session: OpenSession,
) -> None:
    with process(HOLD) as other:
        session = open_session()
        session.empty(1000, "uint8")
        seen = {each.pid: each.sessions for each in look().processes}
        assert set(seen) == {os.getpid(), other.pid}
        ((mine,), (theirs,)) = seen[os.getpid()], seen[other.pid]
        assert mine.stats == session.stats()
        assert (theirs.backend, theirs.stats.budget) == ("simulated", 8 * MIB)
        assert theirs.stats.managed >= 3 * MIB
        session.close()
        assert [each.pid for each in look().processes] == [other.pid]


def test_a_session_keeps_its_number_and_no_other_gets_it(open_session: OpenSession) -> None:
    numbers = []
    for _ in range(3):
        session = open_session()
        (before,) = describe_process()["sessions"]
        (after,) = describe_process()["sessions"]
        assert before["number"] == after["number"]
        numbers.append(before["number"])
        session.close()
    assert len(set(numbers)) == 3


def test_nothing_is_left_of_a_process_that_was_killed(folder: Path) -> None:
    with process(HOLD) as other:
        assert len(sockets(folder)) == 1
        other.kill()
        other.wait()
        assert len(sockets(folder)) == 1
        snapshot = look()
        assert (snapshot.processes, snapshot.silent) == ((), {})
        assert sockets(folder) == []


def test_nothing_is_left_of_a_process_that_ended(folder: Path) -> None:
    with process(HOLD) as other:
        assert len(sockets(folder)) == 1
        other.communicate()
    assert sockets(folder) == []


def test_a_forked_child_does_not_answer_for_its_parent_but_for_itself(folder: Path) -> None:
    forks = """
        told, tell = os.pipe()
        if os.fork() == 0:
            if sys.argv[1:]:
                session = vramx.oversubscribe("4MiB", backend="simulated", block="1MiB")
            print(os.getpid(), flush=True)
            os.write(tell, b"!")
            sys.stdin.read()
            os._exit(0)
        os.read(told, 1)
        {}
    """
    code = textwrap.dedent(HOLD) + textwrap.dedent(forks).format("sys.stdin.read()")
    for opens in ([], ["opens"]):
        with subprocess.Popen(
            [sys.executable, "-c", code, *opens],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            expected = {parent.pid, child} if opens else {parent.pid}
            assert {each.pid for each in look().processes} == expected
            parent.kill()
            parent.wait()
            assert {each.pid for each in look().processes} == expected - {parent.pid}
            assert len(sockets(folder)) == len(opens)


def test_a_process_that_cannot_answer_is_named_and_hides_no_other(
    open_session: OpenSession,
) -> None:
    open_session()
    with process(HOLD) as other:
        other.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, other.pid, os.WSTOPPED)
        snapshot = look(patience=0.1)
        assert list(snapshot.silent) == [other.pid]
        assert [each.pid for each in snapshot.processes] == [os.getpid()]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "Expecting value"),
        (b"[" * 100_000, "none of vramx's"),
        (b"[]", "none of vramx's"),
        (b'{"pid": 1, "command": "x", "sessions": [5]}', "none of vramx's"),
        (b'{"pid": "1", "command": "x", "sessions": []}', "pid is '1'"),
        (b'{"pid": 1, "command": "x", "sessions": [{"stats": {}, "card": 1}]}', "none of vramx's"),
        (b" " * (2**24 + 2), "more than 16777216 bytes"),
    ],
)
def test_an_answer_that_is_none_is_told_and_hides_no_other(
    folder: Path, open_session: OpenSession, answer: bytes, why: str
) -> None:
    open_session("256KiB")
    for name in ("12345-x.socket", "no number.socket"):
        with address_of(folder / "sessions" / name) as address:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(address)
            listener.listen()

        def answers(listener: socket.socket = listener) -> None:
            asker, _ = listener.accept()
            with asker, contextlib.suppress(OSError):
                asker.sendall(answer)

        threading.Thread(target=answers, daemon=True).start()
    snapshot = look(patience=30)
    assert len(snapshot.processes) == 1
    assert list(snapshot.silent) == [12345]
    assert why in snapshot.silent[12345]


def test_a_process_that_does_not_want_to_be_seen_is_not(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("VRAMX_MONITOR", "0")
    with process(HOLD):
        assert look().processes == ()
        assert sockets(folder) == []


def test_a_session_opens_also_where_nobody_can_see_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_session: OpenSession
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("vramx.processes.publishing._published.publisher", None)
    monkeypatch.setattr("vramx.processes.publishing._published.warned", False)
    with pytest.warns(RuntimeWarning, match=r"will not see.*VRAMX_MONITOR=0"):
        open_session()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_session()


def test_no_thread_and_no_file_is_made_before_a_session_opens(folder: Path) -> None:
    code = "import threading, vramx; print(threading.active_count())"
    assert run_child(code) == "1\n"
    assert not folder.exists()


# Rates

COUNTS = st.builds(
    vramx.Stats,
    **dict.fromkeys(
        ("moved_in", "crossed_in", "moved_out", "passes", "hits", "misses"), st.integers(0, 2**40)
    ),
    stall_seconds=st.floats(0, 1e6),
)


@given(before=COUNTS, more=COUNTS, seconds=st.floats(1e-3, 1e6))
def test_rates_times_their_time_are_what_was_done(
    before: vramx.Stats, more: vramx.Stats, seconds: float
) -> None:
    sums = {
        name: getattr(before, name) + getattr(more, name)
        for name in vramx.Stats.__dataclass_fields__
    }
    rates = rates_between(before, vramx.Stats(**sums), seconds)
    assert rates is not None
    for name in ("moved_in", "crossed_in", "moved_out", "passes"):
        assert getattr(rates, name) * seconds == pytest.approx(getattr(more, name))
    assert rates.stalled * seconds == pytest.approx(more.stall_seconds, abs=1e-6)
    used = more.hits + more.misses
    assert rates.hits is None if not used else rates.hits * used == pytest.approx(more.hits)


def test_without_time_between_looks_there_are_no_rates() -> None:
    assert rates_between(vramx.Stats(), vramx.Stats(moved_in=5), 0.0) is None


def test_a_second_look_tells_what_was_done_since_the_first(open_session: OpenSession) -> None:
    session = open_session(block=MIB, budget=4 * MIB)
    array = session.empty(MIB, "uint8")
    first = look()
    session.evict(array)
    session.prefetch(array)
    second = look(dataclasses.replace(first, time=first.time - 10))
    ((rates,),) = [[each.rates for each in one.sessions] for one in second.processes]
    assert rates is not None
    moved = second.processes[0].sessions[0].stats.moved_in
    assert moved - first.processes[0].sessions[0].stats.moved_in == MIB
    assert rates.moved_in == pytest.approx(MIB / (second.time - first.time + 10))
    assert first.processes[0].sessions[0].rates is None


# The command


def test_one_snapshot_is_one_object(open_session: OpenSession) -> None:
    session = open_session()
    done = run("--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    (only,) = told["processes"]
    assert only["pid"] == os.getpid()
    assert only["sessions"][0]["stats"] == dataclasses.asdict(session.stats())
    assert only["sessions"][0]["rates"] is None


def test_several_looks_are_a_line_each(open_session: OpenSession) -> None:
    open_session()
    done = run("--json", "--count", 3, "--interval", 0)
    assert done.exit_code == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    rates = [each["processes"][0]["sessions"][0]["rates"] for each in told]
    assert [each is None for each in rates] == [True, False, False]
    assert told[0]["time"] < told[1]["time"] < told[2]["time"]


def test_a_queues_jobs_are_seen_beside_their_claims() -> None:
    def work() -> Any:
        return json.loads(run("--json").stdout)["queues"]

    with (
        vramx.simulate(),
        vramx.Queue("4MiB", backend="simulated", card="a toy") as queue,
    ):
        found = queue.submit(work, footprint="3MiB", name="looking").result()
    (member,) = found["a toy"]
    assert member["pid"] == os.getpid()
    assert member["running"] == [{"nbytes": 3 * MIB, "name": "looking"}]
    assert json.loads(run("--json").stdout)["queues"] == {}


class OneCard:
    """A machine with a card of which another process holds some."""

    def cards(self) -> list[Card]:
        return [Card(0, "toy card", "GPU-1", 8 * MIB, (8, 6))]

    def card_memory(self, uuid: str) -> CardMemory:
        assert uuid == "GPU-1"
        return CardMemory(total=8 * MIB, free=5 * MIB, others={1: 3 * MIB})


def test_text_and_json_tell_of_the_cards_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramx.monitor.asking.ThisMachine", OneCard)
    (card,) = json.loads(run("--json").stdout)["cards"]
    assert (card["total"], card["free"]) == (8 * MIB, 5 * MIB)
    assert card["processes"] == {"1": 3 * MIB}
    text = run().stdout
    for said in ("toy card", "8.00 MiB", "5.00 MiB", "3.00 MiB in 1"):
        assert said in text


def test_without_a_terminal_there_is_one_look_and_why_there_is_no_card(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoCard:
        def cards(self) -> list[Card]:
            raise RuntimeError("nothing")

    monkeypatch.setattr("vramx.monitor.asking.ThisMachine", NoCard)
    open_session(budget=3 * MIB, block=MIB)
    done = run()
    assert done.exit_code == 0
    assert "no cards: NVML says: nothing" in done.stdout
    assert str(os.getpid()) in done.stdout
    assert done.stdout.count("3.00 MiB") == 1


@pytest.mark.parametrize("files", [1, 500])
def test_a_terminal_is_drawn_anew_until_it_is_left_however_long_a_command_is(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["enlarge", *["a film.mp4"] * files])
    looks = []

    def look_twice(*given: Any) -> Any:
        looks.append(given)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return look(*given)

    open_session()
    terminal = functools.partial(rich.console.Console, force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", terminal)
    monkeypatch.setattr("vramx.cli.monitor.look", look_twice)
    done = run("--interval", 0, "--count", 9)
    assert done.exit_code == 0
    assert len(looks) == 3
    assert done.stdout.count("resident") >= 2
    assert "\x1b[" in done.stdout


def test_without_rich_the_command_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    done = run()
    assert done.exit_code == 1
    assert "vramx[monitor]" in done.stderr
    assert run("--json").exit_code == 0


@pytest.mark.parametrize("arguments", [["--count", 0], ["--interval", -1], ["--count", "x"]])
def test_wrong_usage_ends_with_2(arguments: list[object]) -> None:
    assert run("--json", "--count", 1, *arguments).exit_code == 2
