"""Claims of several processes on one card: within the budget, in order, and void with their owner.

Members in one process stand for several: their locks are as strange to each other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

import vramx
from vramx.queue.ledger import Claim, Ledger
from vramx.runtime import close, runtime_folder

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
TestMembers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

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
