"""Children of a server that has loaded what they need, since each would take seconds to."""

from __future__ import annotations

import multiprocessing

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "torch",
        "av",
        "PIL.Image",
        "skimage.data",
        "vramx.pipelines.enlarger",
        "vramx.pipelines.video",
        "vramx.queue",
    ]
)
