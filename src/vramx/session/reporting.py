"""What a session counts and reports, put together from its parts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vramx import _core
from vramx.cards.nvml import card_memory
from vramx.cards.opening import confined, slowed, unpinned
from vramx.cards.watcher import BudgetWatcher
from vramx.seeing.notebooks import Report
from vramx.seeing.plans import Plan
from vramx.seeing.report import module_table
from vramx.seeing.stats import Stats
from vramx.seeing.usage import ModuleStats, the_rest
from vramx.units import format_size

if TYPE_CHECKING:
    from vramx.integrations.torch import TorchBridge


def counted(core: _core.Core, device: _core.Device, bridge: TorchBridge | None) -> Stats:
    """Count what was done since the session was opened."""
    native = core.stats()
    counts = {
        name: getattr(native, name) for name in Stats.__dataclass_fields__ if hasattr(native, name)
    }
    if device.virtual_clock:
        counts["stall_seconds"] = device.stalled
    if bridge is not None:
        counts["passes"] = bridge.passes.count
        counts["unleased_accesses"] = bridge.unleased_accesses
    return Stats(**counts)


def reported(
    core: _core.Core,
    device: _core.Device,
    bridge: TorchBridge | None,
    watcher: BudgetWatcher | None,
    plan: Plan | None,
    modules: list[ModuleStats],
) -> Report:
    """Describe a session for people."""
    lines = [f"vramx on {device.name} ({device.kind})"]
    if device.uuid:
        with contextlib.suppress(Exception):  # NVML is a courtesy here
            memory = card_memory(device.uuid)
            lines.append(
                f"  card: {format_size(memory.free)} of {format_size(memory.total)} free, "
                f"{format_size(sum(memory.others.values()))} in {len(memory.others)} others"
            )
    if bridge is not None:
        lines += [f"  module {line}" for line in bridge.describe()]
    lines += [f"  {line}" for line in confined(device) + unpinned(device) + slowed(device)]
    if watcher is not None and watcher.watching:
        lines.append(f"  {watcher.describe()}")
    stats = counted(core, device, bridge)
    lines.append(stats.table())
    if plan is not None:
        lines += ["", *plan.lines()]
    if modules:
        lines += ["", module_table(modules, the_rest(modules, stats, core.ungrouped()))]
    return Report("\n".join(lines))
