// Leases as Python takes them: with the interpreter's lock, which is let go while a call waits, and
// with signals that came meanwhile raised before the caller goes on.
#pragma once

#include <utility>
#include <vector>

#include "core/core.hpp"

namespace vramx::calls {

/// Each by its start and its size.
using Ranges = std::vector<std::pair<Address, Bytes>>;

/// Lets Python's signal handlers run while a call waits; throws what they raise.
Poll python_signals();

/// The blocks that hold any byte of the ranges, each once.
Blocks blocks_of(Core& core, const Ranges& ranges);

/// The storages in ranges, and the ranges of which the program does not write the host copies:
/// those without storages, or whose storages are idle without a lease.
struct Parts {
  Pointers::Some pointers{};
  Ranges others{};
};
Parts parts_of(Core& core, const Ranges& ranges);

/// Returns whether all of the group is on the card.
bool acquire(Core& core, GroupId group, Stream stream);
void release(Core& core, GroupId group, Stream stream);
/// Points the storages of a lease at the card, where they are there.
void hold(Core& core, const Pointers::Some& pointers, Stream stream, bool all_on_card);

/// A lease of ranges and of the storages that lie in them.
void take(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread);
void give(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread);

/// The program wrote to storages where they point, or may do so unseen from now on.
void storages_written(Core& core, const Pointers::Some& pointers);
void expose(Core& core, Range range, bool exposed);
/// The program wrote to the ranges.
void written(Core& core, const Ranges& ranges);

}  // namespace vramx::calls
