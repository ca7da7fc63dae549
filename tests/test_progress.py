"""Whatever is counted, progress never goes back, is never beyond its total, and ends at it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vramx
from vramx.progress import Meter

COUNT = st.integers(0, 50)
STEP = st.one_of(
    st.tuples(st.just("add"), COUNT),
    st.tuples(st.just("reach"), COUNT),
    st.tuples(st.just("reach"), COUNT, COUNT),
)


@given(st.none() | COUNT, COUNT, st.lists(STEP))
def test_a_meter_never_goes_back_and_ends_at_its_total(
    total: int | None, begin: int, steps: list[Any]
) -> None:
    told: list[vramx.Progress] = []
    meter = Meter(told.append, "clip", "frame", total, begin)
    for name, *given_ in steps:
        getattr(meter, name)(*given_)
    meter.finish()
    done = [each.done for each in told]
    assert done == sorted(done)
    assert done[0] == begin
    assert all(each.total is None or each.done <= each.total for each in told)
    assert all(each.seconds_left is None or each.seconds_left >= 0 for each in told)
    assert told[-1].total == told[-1].done


def test_bars_come_one_after_another_and_show_all(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with vramx.progress_bar() as bar:
        for what in ("one", "other"):
            meter = Meter(bar, what, "frame", 3)
            meter.way = "whole"
            for _ in range(3):
                meter.add(1)
    shown = capsys.readouterr().err
    assert "one: 100%" in shown
    assert "other: 100%" in shown
    assert "3/3" in shown
    assert "whole]" in shown
