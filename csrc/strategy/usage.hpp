// What a group of blocks was used for and what it cost, and the plan in force: for reports.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/plan.hpp"
#include "table/counts.hpp"

namespace vramx {

struct BlockUsage {
  Range range;
  bool on_card = false;
  Bytes packed = 0;             ///< of its packed copy on the host
  bool packed_on_card = false;  ///< that is on the card too
  bool kept = false;            ///< the plan keeps it on the card from each of its uses to the next
  Counts counts;
};

struct GroupUsage {
  std::uint64_t uses = 0;
  double stall_seconds =
      0;  ///< on a virtual clock, of its streams; else of the threads that used it
  std::vector<BlockUsage> blocks;
};

/// The plan in force, and what it was made from.
struct PlanUsage {
  std::uint64_t passes = 0;  ///< passes recorded so far
  std::uint64_t uses = 0;    ///< a pass
  Bytes used = 0;            ///< a pass, each block once
  Bytes budget = 0;          ///< without what the program allocates
  Bytes kept = 0;            ///< in blocks that never leave
  Bytes kept_packed = 0;     ///< raw, in blocks whose packed copies never leave
  Bytes packed_copies = 0;   ///< in those copies
  Bytes ahead = 0;           ///< kept free for what is fetched ahead
  double compute_seconds = 0;
  Prediction predicted;
  double bound_seconds = 0;  ///< no way of moving these blocks for this work is faster
};

}  // namespace vramx
