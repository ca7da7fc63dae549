// What blocks and groups of blocks are called by.
#pragma once

#include <cstdint>
#include <vector>

namespace vramx {

using BlockId = std::uint32_t;
using GroupId = std::uint32_t;
using Blocks = std::vector<BlockId>;

}  // namespace vramx
