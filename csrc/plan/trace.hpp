// What a pass did: which blocks were in use, in which order, and how long the work took.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "base/rates.hpp"

namespace vramx {

/// One use: its blocks stay on the card for all of it.
struct Step {
  std::vector<std::uint32_t> blocks;  ///< places in Trace::blocks, each at most once
  double seconds = 0;                 ///< of work, until the next step may begin
  Bytes scratch = 0;                  ///< the most that the program had allocated meanwhile
};

struct TracedBlock {
  Bytes size = 0;
  bool written = false;   ///< it leaves by write-back
  Bytes packed = 0;       ///< of its packed copy; 0 where it has none
  Bytes packed_room = 0;  ///< that it takes on the card
  bool alone = false;     ///< the host has no raw bytes beside that copy
};

/// Whether there is a packed copy that a plan may make use of: what is written has none for long.
inline bool packable(const TracedBlock& block, Rates rates) {
  return rates.unpack > 0 && block.packed > 0 && !block.written;
}

/// Whether it comes over the link packed, whatever a plan would have.
inline bool crosses_packed_only(const TracedBlock& block, Rates rates) {
  return block.alone && packable(block, rates);
}

/// One pass of a cycle: after the last step comes the first again.
struct Trace {
  std::vector<TracedBlock> blocks;
  std::vector<Step> steps;

  Bytes bytes_of(const Step& step) const {
    Bytes total = 0;
    for (const auto block : step.blocks) total += blocks[block].size;
    return total;
  }
  Bytes largest_step() const {
    Bytes largest = 0;
    for (const Step& step : steps) largest = std::max(largest, bytes_of(step));
    return largest;
  }
  Bytes least_scratch() const {
    const auto least =
        std::min_element(steps.begin(), steps.end(),
                         [](const Step& a, const Step& b) { return a.scratch < b.scratch; });
    return least == steps.end() ? 0 : least->scratch;
  }
  /// What is left of a budget for blocks where the program has allocated least.
  Bytes beside_scratch(Bytes budget) const { return budget - std::min(budget, least_scratch()); }
  double seconds() const {
    double total = 0;
    for (const Step& step : steps) total += step.seconds;
    return total;
  }
};

}  // namespace vramx
