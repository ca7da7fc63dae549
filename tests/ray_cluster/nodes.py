"""What nodes do by what their environment says, in each of Ray's workers, some without torch."""

from __future__ import annotations

import os
from typing import Any

#: How large a node's card is, and which of the functions below its workers call as they start.
CAPACITY, DOING = "VRAMX_TEST_CAPACITY", "VRAMX_TEST_DOING"
#: What makes a node's weights differ; see `whiteness`.
SEED = "VRAMX_TEST_WEIGHTS"


def set_up() -> None:
    """Runs in each of Ray's workers, as it starts: what the simulated cards are."""
    import vramx

    vramx.simulate(capacity=os.environ.get(CAPACITY, "2GiB"), granule="4KiB")
    if doing := os.environ.get(DOING):
        globals()[doing]()


def write_elsewhere() -> None:
    """Pictures are not where others see them, as in a folder that is not shared."""
    from vramx.engines.worker import Done, Worker

    make_picture = Worker.make_picture

    def make(self: Worker, picture: Any) -> Done:
        done = make_picture(self, picture)
        picture.target.unlink()
        return done

    Worker.make_picture = make  # type: ignore[method-assign]
