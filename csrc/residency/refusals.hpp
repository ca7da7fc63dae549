// What a session refuses, and what it says then.
#pragma once

#include <string>
#include <vector>

#include "device/device.hpp"
#include "table/block_table.hpp"

namespace vramx {

/// Whether the card can use all of the blocks where they lie.
bool read_in_place(const Blocks& blocks, const BlockTable& table, Device& device);

/// Throws InUse where one of the blocks is leased.
void check_not_leased(const Blocks& blocks, const std::string& action, const BlockTable& table);

/// Throws OutOfMemory: a use of the blocks does not fit the `room` in some place beside what the
/// groups `in_use` hold, and the card cannot use them where they lie.
[[noreturn]] void out_of_memory(const Blocks& blocks, const BlockTable& table, Device& device,
                                const PerPlace<Bytes>& room, const std::vector<GroupId>& in_use);

}  // namespace vramx
