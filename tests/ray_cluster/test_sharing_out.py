"""Pieces are shared out among actors: each is made once, whichever actors die."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ray = pytest.importorskip("ray")
from ray.exceptions import RayActorError  # noqa: E402

from vramx import NoDeviceError, Stop  # noqa: E402
from vramx.engines import actors  # noqa: E402
from vramx.engines.worker import About, Done  # noqa: E402
from vramx.tasks import SessionOptions, UpscalerSpec, UpscaleTask  # noqa: E402

ABOUT = About("machine", "card", 1, {})
TASK = UpscaleTask(source=Path("in.mp4"), target=Path("out.mp4"), model=UpscalerSpec("m:n"))


class Actor:
    """Has been asked for what it has not answered."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.calls: list[tuple[Any, Future[Any]]] = []
        self.about = SimpleNamespace(remote=lambda: self.call(None))
        self.make_segment = self.make_picture = SimpleNamespace(remote=self.call)

    def call(self, piece: Any) -> Any:
        future: Future[Any] = Future()
        self.calls.append((piece, future))
        self.cluster.asked(self)
        return SimpleNamespace(future=lambda: future)


class Cluster:
    """Stands in for Ray, and for the queue of what has ended: one by one, in a drawn order.

    An actor answers what it was asked in that order, and dies of some pieces.
    """

    def __init__(self, data: Any, cards: int, fatal: set[int], concurrency: int) -> None:
        self.data, self.cards, self.fatal = data, cards, fatal
        self.concurrency = concurrency
        self.actors: list[Actor] = []
        self.ended: list[Any] = []
        self.deaths: Counter[int] = Counter()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"GPU": float(self.cards)}}]

    def remote(self, **options: Any) -> Any:
        assert options["max_concurrency"] == self.concurrency

        def made(*_: Any, **__: Any) -> Actor:
            self.actors.append(Actor(self))
            return self.actors[-1]

        return lambda _: SimpleNamespace(remote=made)

    def asked(self, actor: Actor) -> None:
        assert actor in self.actors
        pieces = [piece for piece, _ in actor.calls]
        assert len(pieces) <= self.concurrency
        if any(self.deaths[piece] for piece in pieces):
            assert len(pieces) == 1

    def put(self, ended: Any) -> None:
        self.ended.append(ended)

    def get(self, timeout: float) -> Any:
        assert timeout > 0
        if not self.ended:
            actor = self.data.draw(st.sampled_from([each for each in self.actors if each.calls]))
            self.answer(actor)
        return self.ended.pop(0)

    def answer(self, actor: Actor) -> None:
        pieces = [piece for piece, _ in actor.calls]
        if self.fatal.isdisjoint(pieces):
            piece, future = actor.calls.pop(0)
            future.set_result(ABOUT if piece is None else Done(-piece, 1, 1.0, 1))
            return
        self.actors.remove(actor)
        self.deaths.update(pieces)
        for _, future in actor.calls:
            future.set_exception(RayActorError())


@given(st.data(), st.integers(1, 4), st.integers(0, 12), st.booleans(), st.sets(st.integers(0, 11)))
def test_each_piece_is_made_once_or_was_the_end_of_three_actors(
    data: Any, cards: int, count: int, of_video: bool, fatal: set[int]
) -> None:
    cluster = Cluster(data, cards, fatal, 2 if of_video else 1)
    made: list[tuple[int, int]] = []
    failed: dict[int, str] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(actors, "ray", cluster)
        shared = actors.Actors(TASK, 1.0, of_video=of_video, most=cards)
        patched.setattr(shared, "_ended", cluster)
        shared.first(Stop())
        shared.share_out(
            range(count),
            lambda *each: made.append(each),
            Stop(),
            on_failed=lambda piece, error: failed.update({piece: str(error)}),
        )
    wanted = set(range(count))
    assert sorted(made) == [(piece, -piece) for piece in sorted(wanted - fatal)]
    assert sorted(failed) == sorted(wanted & fatal)
    assert all(f"3 actors died of piece {piece}," in why for piece, why in failed.items())
    assert sum(each.made for each in shared.members) == len(made)
    assert len(cluster.actors) == cards
    # As those that died with one beside them may have died of either.
    assert all(cluster.deaths[piece] == 3 for piece in failed)
    assert all(cluster.deaths[piece] <= 1 for piece, _ in made)


def test_machines_without_a_card_make_what_is_for_the_simulated_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(None, 0, set(), 2)
    monkeypatch.setattr(actors, "ray", cluster)
    with pytest.raises(NoDeviceError, match="no node of the Ray cluster has 1 of a GPU"):
        actors.Actors(TASK, 1.0, of_video=True, most=1)
    simulated = replace(TASK, session=SessionOptions(backend="simulated"))
    shared = actors.Actors(simulated, 1.0, of_video=True, most=1)
    monkeypatch.setattr(shared, "_ended", cluster)
    monkeypatch.setattr(cluster, "data", SimpleNamespace(draw=lambda _: cluster.actors[0]))
    assert shared.first(Stop()) == ABOUT
