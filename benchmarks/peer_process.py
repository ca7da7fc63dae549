"""One peer at one budget, in a process of its own that `peers.py` starts."""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from models import Workload, build
from peer_kinds import PEERS, Budget, Run
from processes import answer
from vramx.bench.measuring import (
    WARM_UP,
    host_bytes,
    passes_within,
)
from vramx.integrations.torch.timing import PinnedCopies, timed_on_card, times_on_card


def digest(out: torch.Tensor) -> str:
    """Return a digest of a tensor's bytes, by which processes compare outputs."""
    raw = out.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy()).hexdigest()


def call(run: Run, inputs: dict[str, Any]) -> torch.Tensor:
    """Run a pass; return its output."""
    out = run(**inputs)
    return out[0] if isinstance(out, tuple) else out


def measure(
    name: str, workload: Workload, budget: Budget, passes: int | None, report: Path
) -> None:
    """Run a peer and write its figures, in bytes and seconds."""
    torch.cuda.synchronize()  # CUDA's own memory counts as the process's, the probe's does not
    host_before = host_bytes()
    link = PinnedCopies()
    probe_on_host = host_bytes() - host_before
    probe_on_card = torch.cuda.memory_allocated()
    weights, module = workload.weights, type(workload.module).__name__
    peer = PEERS[name]()
    torch.cuda.reset_peak_memory_stats()

    began = time.perf_counter()
    run = peer.prepare(workload.module, budget)
    torch.cuda.synchronize()
    setup = time.perf_counter() - began
    weights_on_card = torch.cuda.memory_allocated() - probe_on_card
    inputs = workload.inputs_on("cuda")

    outputs = []
    first = timed_on_card(lambda: outputs.append(call(run, inputs)))
    digests = [digest(outputs.pop())]
    again, _ = times_on_card(lambda: call(run, inputs), WARM_UP - 1)
    passes = passes or passes_within(6.0, again[-1])
    rates = [link.to_card() for _ in range(3)]
    moved, copying = peer.moved(), peer.copying()
    times, out = times_on_card(lambda: call(run, inputs), passes)
    moved_after = peer.moved()
    copying = (peer.copying() - copying) / passes
    rates += [link.to_card() for _ in range(3)]
    digests.append(digest(out))
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() - probe_on_card
    figures = {
        "machine": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "module": module,
        "weights": weights,
        "setup_s": setup,
        "warm_up_s": [first, *again],
        "times_s": [each - copying for each in times],
        "link": statistics.median(rates),
        "moved": None if moved is None else (moved_after - moved) / passes,
        "activations": peak - weights_on_card,
        "peak_vram": peak + peer.bytes_beside_torch(),
        "rss": host_bytes() - probe_on_host,
        "peak_rss": peak_rss - probe_on_host,
        "digests": digests,
        "finite": bool(out.isfinite().all()),
    }
    report.write_text(json.dumps(figures))
    peer.close()


@torch.no_grad()
def main(asked: dict[str, Any], report: Path) -> None:
    """Measure what was asked; write to a file."""
    workload = build(*(asked[name] for name in ("model", "weights", "tokens", "width")))
    budget = Budget(asked["budget"] or workload.weights, asked["activations"])
    measure(asked["peer"], workload, budget, asked["passes"], report)


if __name__ == "__main__":
    sys.exit(answer(main))
