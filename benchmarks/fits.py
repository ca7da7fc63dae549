"""A model that fits its budget: managed against stock, in interleaved runs of one process."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import vramx
from cyclic import build, bytes_of, timed_on_card
from vramx.units import format_size, parse_size


def measure(weights: int, width: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Time both models by turns; figures in bytes and seconds."""
    stock = build(weights, width, torch.bfloat16, "cuda", lambda: None).cuda()
    x = torch.randn(tokens, width, dtype=torch.bfloat16, device="cuda")
    times: dict[str, list[float]] = {"stock": [], "managed": []}
    with vramx.oversubscribe("32GiB") as session:
        managed = session.manage(build(weights, width, torch.bfloat16, "cuda", lambda: None))
        for _ in range(5):
            expected, out = stock(x), managed(x)
        for _ in range(rounds):
            times["stock"].append(timed_on_card(lambda: stock(x)))
            times["managed"].append(timed_on_card(lambda: managed(x)))
        same = torch.equal(out, expected)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {
        "machine": torch.cuda.get_device_name(),
        "width": width,
        "layers": len(stock),
        "weights": bytes_of(stock),
        "stock_s": medians["stock"],
        "managed_s": medians["managed"],
        "ratio": medians["managed"] / medians["stock"],
        "same_bits": same,
    }


@torch.no_grad()
def main() -> int:
    """Run the benchmark from the command line; needs a card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="4GiB")
    parser.add_argument("--widths", type=int, nargs="+", default=[8192, 2048])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for width in args.widths:
        row = measure(parse_size(args.weights, "weights"), width, args.tokens, args.rounds)
        rows.append(row)
        print(
            f"{row['machine']}: {row['layers']} layers of {width}, {format_size(row['weights'])}: "
            f"stock {row['stock_s'] * 1e3:.2f} ms, managed {row['managed_s'] * 1e3:.2f} ms, "
            f"ratio {row['ratio']:.4f}, same bits {row['same_bits']}"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
