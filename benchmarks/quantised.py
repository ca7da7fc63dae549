"""Decoder blocks with quantised weights in half the memory that they need, against the limit.

Linear layers are torchao's int8, weight only, or bitsandbytes' NF4; what each holds beside codes
(scales, tables) counts as weights. The same module is run with everything on the card, and then
managed in a session of W/ratio. Printed is the median pass over T_plan = max(C, (W-B+S*b)/L), with
the link L and the all-resident pass C measured in the same run and B the budget less what a pass
allocates beside weights. The first three passes, in which the policy plans, are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import DecoderBlock
from reporting import Report, gib
from vramx.bench.limits import budget_of, limits
from vramx.bench.machine import Machine
from vramx.bench.measuring import WARM_UP, passes_within
from vramx.units import format_size, parse_size

#: The most that a median pass may take over T_plan.
OVER_PLAN = 1.10
#: Seconds of passes that are measured.
LENGTH = 2.0
COLUMNS = (
    f"{'weights':<14}{'tokens':<8}{'W GiB':<7}{'B GiB':<7}{'C ms':<9}{'ms':<9}{'/T_plan':<9}"
    f"{'in GiB':<8}{'out MiB':<9}{'same':<6}holds"
)


def torchao_int8(block: nn.Module) -> nn.Module:
    """Quantise a block's linear layers to torchao's int8, weight only."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(block, Int8WeightOnlyConfig())
    return block


def bitsandbytes_nf4(block: nn.Module) -> nn.Module:
    """Quantise a block's linear layers to bitsandbytes' NF4."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in list(block.named_children()):
        if isinstance(layer, nn.Linear):
            kept = Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=layer.weight.dtype,
                quant_type="nf4",
                device="meta",
            )
            weight = Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=kept
            )
            kept.weight = weight.to(layer.weight.device)  # it is moving that quantises
            setattr(block, name, kept)
    return block


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torchao": torchao_int8,
    "bitsandbytes": bitsandbytes_nf4,
}


def tensors_in(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Go through the plain tensors that a tensor is made of, and its quantisation's tables."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from tensors_in(getattr(tensor, name))
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)
    while state is not None:
        yield from (each for each in vars(state).values() if isinstance(each, torch.Tensor))
        state = state.state2


def bytes_held(module: nn.Module) -> int:
    """Sum the bytes of a module's parameters and buffers, however they are made."""
    held = {
        each.data_ptr(): each.numel() * each.element_size()
        for tensor in (*module.parameters(), *module.buffers())
        for each in tensors_in(tensor)
    }
    return sum(held.values())


@torch.no_grad()
def decoder(
    quantise: Callable[[nn.Module], nn.Module],
    weights: int,
    width: int,
    dtype: torch.dtype,
    device: str,
) -> nn.Sequential:
    """Make quantised blocks of at least `weights` bytes in all, drawn and quantised on a device."""
    blocks: list[nn.Module] = []
    generator = torch.Generator(device).manual_seed(0)
    while not blocks or sum(map(bytes_held, blocks)) < weights:
        with torch.device("meta"):
            block: nn.Module = DecoderBlock(width, max(1, width // 128))
        block.to(dtype).to_empty(device=device).requires_grad_(False).eval()
        for name, parameter in block.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        blocks.append(quantise(block))
    return nn.Sequential(*blocks)


class Quantised:
    """The benchmark on one device.

    Parameters
    ----------
    args : argparse.Namespace
        The command line's options.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.machine = Machine(args.backend, parse_size(args.block, "block"))

    @torch.no_grad()
    def run(self, report: Report) -> None:
        """Run every kind with every count of tokens; report all figures, in bytes and seconds."""
        report.begin(
            machine=self.machine.name,
            torch=torch.__version__,
            backend=self.args.backend,
            ratio=self.args.ratio,
            block=self.machine.block,
        )
        for kind in self.args.kinds:
            for tokens in self.args.tokens:
                row: dict[str, Any] = {"kind": kind, "tokens": tokens}
                try:
                    row |= {"version": metadata.version(kind)} | self.measure(kind, tokens)
                except Exception as error:  # the others are worth their time still
                    traceback.print_exc()
                    row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                report.add(row)
                self.machine.forget()

    def measure(self, kind: str, tokens: int) -> dict[str, Any]:
        """Run one kind with everything on the card, and then within its budget."""
        machine, args = self.machine, self.args
        wanted = parse_size(args.weights, "weights")
        model = decoder(KINDS[kind], wanted, args.width, machine.dtype, machine.device)
        weights = bytes_held(model)
        generator = torch.Generator(machine.device).manual_seed(1)
        x = torch.randn(1, tokens, args.width, device=machine.device, generator=generator)
        x = x.to(machine.dtype)
        expected = model(x)
        resident, activations = 0.0, 0
        if machine.on_card:
            (times, _), activations = machine.allocating(
                lambda: machine.times(lambda: model(x), 10)
            )
            resident = statistics.median(times)
        budget = budget_of(weights, args.ratio, machine.block)
        with machine.session(budget, "adaptive") as session:
            session.manage(model)
            warm_up, _ = machine.times(lambda: model(x), WARM_UP)
            passes = args.passes or passes_within(LENGTH, warm_up[-1])
            before = session.stats()
            rates = [machine.link() for _ in range(3)]
            times, _ = machine.times(lambda: model(x), passes)
            rates += [machine.link() for _ in range(3)]
            after = session.stats()
            same = torch.equal(model(x), expected)
        same_after = torch.equal(model(x), expected)
        link, median = statistics.median(rates), statistics.median(times)
        limit = limits(weights, max(0, budget - activations), link, resident, machine.block)
        return {
            "weights": weights,
            "budget": budget,
            "all_resident_s": resident,
            "activations": activations,
            "link": link,
            "times_s": times,
            "median_s": median,
            "t_fluid": limit.fluid,
            "t_plan": limit.plan,
            "over_plan": median / limit.plan,
            "holds_limit": median / limit.plan <= OVER_PLAN,
            "moved_in": (after.moved_in - before.moved_in) / passes,
            "written_back": (after.moved_out - before.moved_out) / passes,
            "peak_resident": after.peak_resident,
            "same_bits": same,
            "same_bits_after": same_after,
        }


def line(row: dict[str, Any]) -> str:
    """Write a row for people."""
    start = f"{row['kind']:<14}{row['tokens']:<8}"
    if "error" in row:
        return start + row["error"]
    same = "yes" if row["same_bits"] and row["same_bits_after"] else "NO"
    return (
        f"{start}{gib(row['weights']):<7}{gib(row['budget']):<7}"
        f"{row['all_resident_s'] * 1e3:<9.2f}{row['median_s'] * 1e3:<9.2f}"
        f"{row['over_plan']:<9.3f}{gib(row['moved_in']):<8}{row['written_back'] / 2**20:<9.1f}"
        f"{same:<6}{'yes' if row['holds_limit'] else 'NO'}"
    )


def head_line(shared: dict[str, Any]) -> str:
    """Write what all rows share for people."""
    return (
        f"{shared['machine']}, torch {shared['torch']}: backend {shared['backend']}, W/B "
        f"{shared['ratio']}, blocks of {format_size(shared['block'])}; moved is a pass's\n{COLUMNS}"
    )


def main() -> int:
    """Run the benchmark from the command line."""
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto" if card else "simulated")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--weights", default="2GiB" if card else "8MiB", help="at least")
    parser.add_argument("--width", type=int, default=4096 if card else 256)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 256] if card else [4])
    parser.add_argument("--block", default="32MiB" if card else "256KiB")
    parser.add_argument("--ratio", type=float, default=2, help="weights over budget")
    parser.add_argument("--passes", type=int, help="measured; 10 to 30 by their time unless given")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = Report(args.json, head_line, line)
    Quantised(args).run(report)
    return int(any("error" in row or not row["same_bits"] for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
