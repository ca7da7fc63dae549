"""Claims of several processes on one card: within the budget, in order, and void with their owner.

Members in one process stand for several: their locks are as strange to each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

import vramx
from vramx.processes.runtime import close, runtime_folder
from vramx.queue.ledger import Claim, Ledger

BUDGET = 10


def die(ledger: Ledger) -> None:
    """End a member as the kernel does when its process is killed."""
    close(ledger._file)


@contextlib.contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs some code; it is killed at the end if need be."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


class Members(RuleBasedStateMachine):
    """Members claim, give back, leave and die in any order; a model says what each must get."""

    ledgers = Bundle("ledgers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="vramx-test-")
        self.numbers = iter(range(10**6))
        self.running: dict[Ledger, dict[int, int]] = {}
        self.line: list[Ledger] = []
        self.outside = Ledger(Path(self.folder.name))

    @rule(target=ledgers)
    def join(self) -> Ledger:
        ledger = Ledger(Path(self.folder.name))
        self.running[ledger] = {}
        return ledger

    @property
    def held(self) -> int:
        return sum(sum(claims.values()) for claims in self.running.values())

    @rule(ledger=ledgers, nbytes=st.integers(1, BUDGET))
    def claim(self, ledger: Ledger, nbytes: int) -> None:
        if ledger not in self.running:
            return
        if ledger not in self.line:
            self.line.append(ledger)
        due = self.line[0] is ledger and self.held + nbytes <= BUDGET
        key = next(self.numbers)
        assert ledger.claim(key, Claim(nbytes, "a job"), BUDGET) == due
        if due:
            self.line.remove(ledger)
            self.running[ledger][key] = nbytes

    @rule(ledger=ledgers, data=st.data())
    def give_back(self, ledger: Ledger, data: st.DataObject) -> None:
        if claims := self.running.get(ledger):
            key = data.draw(st.sampled_from(sorted(claims)))
            ledger.release(key)
            del claims[key]

    @rule(ledger=ledgers)
    def leave_line(self, ledger: Ledger) -> None:
        if ledger in self.line:
            ledger.leave_line()
            self.line.remove(ledger)

    @rule(ledger=ledgers, killed=st.booleans())
    def end(self, ledger: Ledger, killed: bool) -> None:
        if ledger not in self.running:
            return
        if not killed:
            ledger.close()
            ledger.close()
        elif ledger._file >= 0:
            die(ledger)
        del self.running[ledger]
        if ledger in self.line:
            self.line.remove(ledger)

    @precondition(lambda self: self.line)
    @rule()
    def the_first_in_line_gets_whatever_it_wants_when_all_else_is_given_back(self) -> None:
        for ledger, claims in self.running.items():
            for key in list(claims):
                ledger.release(key)
                del claims[key]
        first = self.line.pop(0)
        key = next(self.numbers)
        assert first.claim(key, Claim(BUDGET, "all"), BUDGET)
        self.running[first][key] = BUDGET

    @invariant()
    def claims_stay_within_the_budget_and_are_those_of_the_living(self) -> None:
        members = self.outside.others()
        assert sum(each.held for each in members) == self.held <= BUDGET
        assert sum(each.waiting is not None for each in members) == len(self.line)

    def teardown(self) -> None:
        for ledger in self.running:
            ledger.close()
        assert self.outside.others() == []
        self.folder.cleanup()


TestMembers = Members.TestCase
TestMembers.settings = settings(max_examples=60, stateful_step_count=30)

HOLD = """
    import sys
    from pathlib import Path
    from vramx.queue.ledger import Claim, Ledger

    ledger = Ledger(Path(sys.argv[1]))
    for key, nbytes in enumerate(sys.argv[2:]):
        print(ledger.claim(key, Claim(int(nbytes), "held"), 10), flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_no_claim_behind(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with process(HOLD, tmp_path, 8) as holder:
        assert said(holder) == "True"
        assert not ledger.claim(0, Claim(4, "mine"), BUDGET)
        assert [(each.pid, each.held) for each in ledger.others()] == [(holder.pid, 8)]
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert ledger.claim(0, Claim(4, "mine"), BUDGET)
    assert ledger.others() == []
    assert len(list(tmp_path.glob("*.claims"))) == 1


def test_a_killed_process_leaves_no_place_in_the_line_behind(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path), Ledger(tmp_path)
    assert other.claim(0, Claim(6, "other"), BUDGET)
    with process(HOLD, tmp_path, 9) as waiting:
        assert said(waiting) == "False"
        assert not ledger.claim(0, Claim(1, "small"), BUDGET)
        waiting.kill()
        waiting.wait()
    assert ledger.claim(0, Claim(1, "small"), BUDGET)


def test_a_killed_process_leaves_no_claim_with_the_children_that_it_forked(tmp_path: Path) -> None:
    forks = """
        import os, sys
        from pathlib import Path
        from vramx.queue.ledger import Claim, Ledger

        ledger = Ledger(Path(sys.argv[1]))
        ledger.claim(0, Claim(8, "held"), 10)
        told, tell = os.pipe()
        if os.fork() == 0:
            os.write(tell, b"!")
            sys.stdin.read()
            os._exit(0)
        os.read(told, 1)
        print("forked", flush=True)
        sys.stdin.read()
    """
    ledger = Ledger(tmp_path)
    with process(forks, tmp_path) as holder:
        assert said(holder) == "forked"
        assert not ledger.claim(0, Claim(4, "mine"), BUDGET)
        holder.kill()
        holder.wait()
        assert ledger.claim(0, Claim(4, "mine"), BUDGET)


def test_a_forked_child_that_ends_takes_no_claim_with_it(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path), Ledger(tmp_path)
    assert ledger.claim(0, Claim(8, "held"), BUDGET)
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not other.claim(0, Claim(4, "mine"), BUDGET)


def test_claims_outlive_a_tidied_folder(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path / "card"), Ledger(tmp_path / "card")
    assert ledger.claim(0, Claim(4, "one"), BUDGET)
    for path in (tmp_path / "card").iterdir():
        path.unlink()
    (tmp_path / "card").rmdir()
    assert ledger.claim(1, Claim(4, "two"), BUDGET)
    assert [each.held for each in other.others()] == [8]


def test_a_ledger_that_cannot_be_read_says_so_and_claims_nothing(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("lock")
    ledger = Ledger(tmp_path)
    with pytest.raises(vramx.Error, match="VRAMX_RUNTIME_DIR"):
        ledger.claim(0, Claim(4, "one"), BUDGET)
    assert (ledger.held, ledger.waits) == (0, False)


# What others may have put there


def locked(path: Path, text: bytes) -> int:
    """Write a file and hold its lock, as a living member does."""
    path.write_bytes(text)
    file = os.open(path, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


PLAIN = {"pid": 1, "running": [{"nbytes": 3, "name": "a"}], "waiting": None, "ticket": 0, "kept": 0}
NUMBERS = st.integers() | st.floats() | st.none() | st.text(max_size=3) | st.booleans()
JSON = st.recursive(
    NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
CHANGED = st.fixed_dictionaries(
    {
        "pid": st.just(1) | NUMBERS,
        "running": st.lists(st.fixed_dictionaries({"nbytes": NUMBERS, "name": st.just("x")}))
        | JSON,
        "waiting": st.none() | st.fixed_dictionaries({"nbytes": NUMBERS, "name": st.just("x")}),
        "ticket": st.just(0) | NUMBERS,
        "kept": st.just(0) | NUMBERS,
    }
)


@settings(max_examples=200)
@given(text=st.binary(max_size=200) | (JSON | CHANGED).map(lambda x: json.dumps(x).encode()))
def test_whatever_a_member_s_file_says_claims_are_within_the_budget_or_refused(
    text: bytes,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = locked(Path(folder) / "1-a.claims", text)
        ledger, other = Ledger(Path(folder)), Ledger(Path(folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            had = ledger.claim(0, Claim(BUDGET, "mine"), BUDGET)
            assert not other.claim(0, Claim(1, "more"), BUDGET)
            members = [each for each in other.others() if each.pid != os.getpid()]
        if had:
            assert sum(each.held for each in members) == 0
        else:
            assert members[0].held > 0 or members[0].waiting is not None
        ledger.close(), other.close()
        os.close(file)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b"[]", "no member's"),
        (json.dumps({**PLAIN, "pid": 0}).encode(), "its process is 0"),
        (json.dumps({**PLAIN, "ticket": 1e308}).encode(), r"its ticket is 1e\+308"),
        (json.dumps({**PLAIN, "kept": -1}).encode(), "its number of bytes is -1"),
        (
            json.dumps({**PLAIN, "running": [{"nbytes": 2**70, "name": "x"}]}).encode(),
            "bytes is 11",
        ),
        (json.dumps({**PLAIN, "running": [{"nbytes": 1}]}).encode(), "has no name"),
        (b" " * (2**20 + 1), "more than 1048576 bytes"),
    ],
)
def test_what_is_no_claim_is_named_once_and_counts_for_nothing(
    tmp_path: Path, text: bytes, why: str
) -> None:
    file = locked(tmp_path / "1-a.claims", text)
    ledger = Ledger(tmp_path)
    with pytest.warns(RuntimeWarning, match=f"1-a.claims counts for nothing.*{why}") as told:
        assert ledger.claim(0, Claim(BUDGET, "mine"), BUDGET)
        assert ledger.others() == []
    assert len(told) == 1
    ledger.close()
    os.close(file)


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link", "a link to itself"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "1-a.claims"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "a link to itself" else tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_text("kept")
    ledger = Ledger(tmp_path)
    with pytest.warns(RuntimeWarning, match="1-a.claims counts for nothing"):
        assert ledger.claim(0, Claim(BUDGET, "mine"), BUDGET)
    assert not (tmp_path / "elsewhere").exists() or (tmp_path / "elsewhere").read_text() == "kept"
    ledger.close()


@pytest.mark.parametrize("kind", ["held", "a pipe", "a folder"])
def test_a_lock_that_cannot_be_had_is_an_error_in_bounded_time(tmp_path: Path, kind: str) -> None:
    file = -1
    if kind == "held":
        file = locked(tmp_path / "lock", b"")
    elif kind == "a pipe":
        os.mkfifo(tmp_path / "lock")
    else:
        (tmp_path / "lock").mkdir()
    ledger = Ledger(tmp_path, patience=0.01)
    messages = {
        "held": "has held .*lock locked for 0.01 s",
        "a pipe": "no plain file",
        "a folder": "Is a directory",
    }
    with pytest.raises(vramx.Error, match=messages[kind]):
        ledger.claim(0, Claim(1, "mine"), BUDGET)
    assert (ledger.held, ledger.waits) == (0, False)
    ledger.close()
    if file >= 0:
        os.close(file)
        assert ledger.claim(0, Claim(1, "mine"), BUDGET)
        ledger.close()


@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_leaves_the_claims_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    ledger, other, new = Ledger(tmp_path), Ledger(tmp_path), Ledger(tmp_path)
    assert ledger.claim(0, Claim(6, "one"), BUDGET)

    def full(_: int, text: bytes) -> int:
        if short:
            return len(text) // 2
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for each in (ledger, new):
            with pytest.raises(vramx.Error, match="No space left"):
                each.claim(1, Claim(1, "two"), BUDGET)
        with pytest.raises(vramx.Error, match="No space left"):
            ledger.release(0)
    assert [each.held for each in other.others()] == [6]
    assert len([*tmp_path.iterdir()]) == 2  # the lock and the one claim
    assert new.claim(1, Claim(4, "two"), BUDGET)
    assert [each.held for each in new.others()] == [6]
    for each in (ledger, new):
        each.close()


def test_what_a_process_left_that_was_killed_as_it_wrote_is_removed(tmp_path: Path) -> None:
    (tmp_path / "77-a.new").write_text("half of")
    ledger = Ledger(tmp_path)
    assert ledger.claim(0, Claim(1, "mine"), BUDGET)
    assert not (tmp_path / "77-a.new").exists()
    ledger.close()


# The folder


def test_processes_find_each_other_in_the_folder_that_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    assert runtime_folder() == tmp_path / "a" / "b"
    assert runtime_folder().is_dir()


def test_those_who_may_use_a_shared_folder_may_use_all_that_is_made_in_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    assert Ledger(tmp_path / "cards" / "one").claim(0, Claim(1, "a job"), BUDGET)
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_dir()}
    assert modes == {tmp_path.stat().st_mode}


def test_a_folder_that_cannot_be_had_is_an_error_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VRAMX_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(vramx.ConfigError, match="VRAMX_RUNTIME_DIR"):
        runtime_folder()


@pytest.mark.parametrize("planted", ["open to others", "a link", "a file"])
def test_a_folder_that_others_could_fill_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planted: str
) -> None:
    monkeypatch.delenv("VRAMX_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: f"test-{tmp_path.name}")
    folder = Path(f"/tmp/vramx-test-{tmp_path.name}")
    try:
        if planted == "a link":
            folder.symlink_to(tmp_path)
        elif planted == "a file":
            folder.touch()
        else:
            folder.mkdir()
            folder.chmod(0o777)
        with pytest.raises(vramx.ConfigError, match="VRAMX_RUNTIME_DIR"):
            runtime_folder()
    finally:
        folder.rmdir() if folder.is_dir() and not folder.is_symlink() else folder.unlink()
