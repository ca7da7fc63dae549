// Leases as Python takes them: with the interpreter's lock, which is let go while a call waits, and
// with signals that came meanwhile raised before the caller goes on.
#pragma once

#include <utility>
#include <vector>

#include "core/core.hpp"

namespace vramx::bind {

using Ranges = std::vector<std::pair<Address, Bytes>>;

/// The blocks that hold any byte of the ranges, each once.
Blocks blocks_of(Core& core, const Ranges& ranges);

void acquire(Core& core, GroupId group, Stream stream);
void release(Core& core, GroupId group, Stream stream);

void take(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread);
void give(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread);

}  // namespace vramx::bind
