"""Ray Data's actors give what the library gives, within their parts of a card."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vramx
import vramx.pipelines.files
import vramx.tasks
from pipelines.face_networks import (
    MeanColour,
    Painter,
    PatchDetector,
    background,
    draw_face,
    portrait,
)
from pipelines.networks import enlarger
from vramx.queue.ledger import Ledger, folder_of_card
from vramx.tasks import SessionOptions

from .jobs import FACE_MODELS, SESSION

MIB = 2**20
CAPACITY, RESERVE = 2048 * MIB, 4 * MIB
TIGHT = SessionOptions(backend="simulated", reserve=CAPACITY // 2 - 6 * MIB, block=2**16)


def mapped(cluster: Any, rows: list[dict[str, Any]], actor: type, **given: Any) -> list[Any]:
    """Run a dataset through an actor at half a card; the rows by their numbers."""
    import ray

    assert cluster.address
    options = {"num_gpus": 0.5, "batch_size": 3, **given.pop("options", {})}
    pool = ray.data.ActorPoolStrategy(size=1)
    items = [{"number": number, **row} for number, row in enumerate(rows)]
    made = ray.data.from_items(items, override_num_blocks=2).map_batches(
        actor, fn_constructor_kwargs={"session": SESSION, **given}, compute=pool, **options
    )
    return sorted(made.take_all(), key=lambda row: row["number"])


def all_errors(kind: type[vramx.Error] = vramx.Error) -> list[type[vramx.Error]]:
    return [kind, *(each for below in kind.__subclasses__() for each in all_errors(below))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_crosses_processes_with_type_text_and_figures(kind: type[vramx.Error]) -> None:
    error = kind("9 of 8 bytes")
    figures = {"asked": 9, "done": 3, "kept": Path("x.parts")}
    for name in figures.keys() & vars(kind).keys():
        setattr(error, name, figures[name])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_pictures_of_several_sizes_are_enlarged_as_without_ray(cluster: Any) -> None:
    from vramx.integrations.ray import Upscaler

    generator = np.random.default_rng(0)
    sizes = [(12, 16), (12, 16), (12, 16), (9, 7), (12, 16), (20, 5), (12, 16)]
    pictures = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    rows = [{"image": each} for each in pictures]
    made = mapped(cluster, rows, Upscaler, model="pipelines.networks:enlarger")
    with vramx.super_resolution(enlarger(), budget="64MiB", backend="simulated") as sr:
        for row, picture in zip(made, pictures, strict=True):
            assert np.array_equal(row["image"], sr(picture))


def test_faces_are_swapped_as_without_ray(cluster: Any, tmp_path: Path) -> None:
    from vramx.integrations.ray import FaceSwapper

    Image.fromarray(portrait("blue")).save(tmp_path / "me.png")
    pictures = [draw_face(background(), "red", 20 + n, 50) for n in range(3)]
    rows = [{"frame": each} for each in pictures]
    given = {"source": str(tmp_path / "me.png"), "models": FACE_MODELS, "column": "frame"}
    made = mapped(cluster, rows, FaceSwapper, **given)
    networks = (PatchDetector(), MeanColour(), Painter())
    with vramx.face_swap(*networks, budget="64MiB", backend="simulated") as fs:
        for row, wanted in zip(made, fs(tmp_path / "me.png", iter(pictures)), strict=True):
            assert np.array_equal(row["frame"], wanted)
            assert not np.array_equal(row["frame"], pictures[0])


def test_a_module_larger_than_its_actors_budget_gives_stock_torchs_bits(cluster: Any) -> None:
    from vramx.integrations.ray import Predictor

    generator = np.random.default_rng(0)
    rows = [{"data": generator.random(512, np.float32)} for _ in range(6)]
    small = SessionOptions(backend="simulated", reserve=RESERVE, block=2**16, budget=3 * MIB)
    made = mapped(cluster, rows, Predictor, module=deep, session=small)
    with torch.inference_mode():
        for first in range(0, 6, 3):
            batch = torch.from_numpy(np.stack([row["data"] for row in rows[first : first + 3]]))
            wanted = deep()(batch).numpy()
            got = np.stack([row["prediction"] for row in made[first : first + 3]])
            assert np.array_equal(got, wanted)


def deep() -> nn.Module:
    """8 MiB of weights."""
    torch.manual_seed(3)
    return nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(8))).eval()


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"model": "no.such:network"}, vramx.ConfigError, "importing no.such failed"),
        ({"column": "pictures"}, vramx.ConfigError, "no column 'pictures', but number, image"),
    ],
)  # fmt: skip
def test_errors_reach_the_driver_with_their_type(
    cluster: Any, given: dict[str, Any], kind: type[vramx.Error], said: str
) -> None:
    from vramx.integrations.ray import Upscaler

    rows = [{"image": np.zeros((4, 4, 3), np.uint8)}]
    # Of no card, for Ray keeps the actors of a dataset that failed for some time.
    given = {
        "model": "pipelines.networks:enlarger",
        "options": {"num_gpus": 0, "num_cpus": 1},
        **given,
    }
    with pytest.raises(kind, match=re.escape(said)):
        mapped(cluster, rows, Upscaler, **given)


def test_what_an_actor_may_not_have_is_an_error_of_its_first_call(cluster: Any) -> None:
    import ray

    from vramx.integrations.ray import Upscaler

    assert cluster.address
    too_much = SessionOptions(backend="simulated", budget="1021MiB", reserve=RESERVE)
    made = [
        ray.remote(num_gpus=gpus)(Upscaler).remote("pipelines.networks:enlarger", session=session)
        for gpus, session in ((0, SessionOptions()), (0.5, too_much))
    ]
    none, much = (each.__call__.remote({"image": []}) for each in made)
    with pytest.raises(vramx.NoDeviceError, match=re.escape("num_gpus=0.5")):
        ray.get(none)
    with pytest.raises(vramx.ConfigError, match=re.escape("is more than the 1020.00 MiB that 0.5")):
        ray.get(much)
    for each in made:
        ray.kill(each)


def test_four_actors_on_two_cards_stay_within_their_parts_together(cluster: Any) -> None:
    import ray

    from vramx.integrations.ray import Seat

    @contextlib.contextmanager
    def managed(session: vramx.Session) -> Iterator[Any]:
        yield session, session.manage(deep())

    class Worker:
        def __init__(self) -> None:
            self.seat = Seat(TIGHT, managed)

        def work(self) -> Any:
            def run(opened: Any) -> Any:
                session, network = opened
                x = torch.ones(1, 512)
                with torch.inference_mode():
                    for _ in range(3):
                        x = network(x) + torch.zeros(2**18, device=x.device)[:512]
                return session.stats()

            return self.seat.share, self.seat.do(run)

    assert cluster.address
    remote = ray.remote(num_gpus=0.5)(Worker)
    actors = [remote.remote() for _ in range(4)]
    cards: dict[str, list[Any]] = {}
    for share, stats in ray.get([each.work.remote() for each in actors]):
        assert share.budget == stats.budget == 6 * MIB  # of 8 MiB of weights
        assert 4 * MIB <= stats.peak_resident <= stats.budget
        cards.setdefault(share.card, []).append(share)
    assert [len(each) for each in cards.values()] == [2, 2]
    for card, shares in cards.items():
        ledger = Ledger(folder_of_card(card))
        claimed = sum(claim.nbytes for each in ledger.others() for claim in each.running)
        ledger.close()
        assert claimed == sum(each.budget for each in shares) <= shares[0].whole < CAPACITY
    for each in actors:
        ray.kill(each)
