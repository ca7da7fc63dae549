#include "plan/bound.hpp"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <vector>

namespace vramx {

namespace {

/// The fewest bytes that hold a block.
Bytes fewest_bytes(const TracedBlock& block, Rates rates) {
  return packable(block, rates) ? std::min(block.packed, block.size) : block.size;
}

/// By step: the seconds that what is used there first takes on the link.
std::vector<double> crossings(const Trace& trace, Rates rates) {
  std::vector<double> crossing;
  std::vector<bool> counted(trace.blocks.size());
  for (const Step& step : trace.steps) {
    Bytes bytes = 0;
    for (const auto block : step.blocks) {
      if (counted.at(block)) continue;
      counted[block] = true;
      bytes += fewest_bytes(trace.blocks[block], rates);
    }
    crossing.push_back(static_cast<double>(bytes) / rates.up);
  }
  return crossing;
}

/// What unpacking adds to a pass. Of its blocks some `d` bytes are unpacked in it; the others were
/// on the card raw as it began, or cross raw, if they can. So it takes the work's time and
/// d / unpack, and no less than the link takes for all bytes but those that packing saves and those
/// on the card.
double least_seconds_of_a_pass(const Trace& trace, Bytes room, Rates rates) {
  std::vector<bool> used(trace.blocks.size());
  for (const Step& step : trace.steps) {
    for (const auto block : step.blocks) used[block] = true;
  }
  double raw = 0;
  double packable_bytes = 0;
  double alone = 0;       // of these, what cannot cross raw
  double most_saved = 0;  // a byte that is unpacked, of any block
  for (std::size_t i = 0; i < used.size(); ++i) {
    const TracedBlock& block = trace.blocks[i];
    if (!used[i]) continue;
    raw += static_cast<double>(block.size);
    if (!packable(block, rates)) continue;
    packable_bytes += static_cast<double>(block.size);
    if (block.alone) alone += static_cast<double>(block.size);
    most_saved = std::max(most_saved, 1 - static_cast<double>(fewest_bytes(block, rates)) /
                                              static_cast<double>(block.size));
  }
  const double over = (raw - static_cast<double>(room)) / rates.up - trace.seconds();
  if (packable_bytes == 0) return trace.seconds() + std::max(0.0, over);
  // Where more unpacking takes as long as the moves that are left.
  const double unpacked =
      std::clamp(over / (1 / rates.unpack + most_saved / rates.up),
                 std::max(0.0, alone - static_cast<double>(room)), packable_bytes);
  return trace.seconds() + unpacked / rates.unpack;
}

}  // namespace

double least_seconds(const Trace& trace, Bytes budget, Rates rates) {
  const std::size_t steps = trace.steps.size();
  const std::vector<double> crossing = crossings(trace, rates);
  // The stretch whose crossing exceeds its work by most, of a pass's length at most: sums from the
  // start to its end, less the least of those to its beginning.
  std::vector<double> sums = {0};
  std::deque<std::size_t> beginnings;  // by sums, ascending
  double most = 0;
  for (std::size_t end = 0; end < 2 * steps; ++end) {
    const Step& last = trace.steps[end % steps];
    while (!beginnings.empty() && sums[beginnings.back()] >= sums[end]) beginnings.pop_back();
    beginnings.push_back(end);
    if (beginnings.front() + steps <= end) beginnings.pop_front();
    const double before = sums[end] + crossing[end % steps];
    most = std::max(most, before - sums[beginnings.front()]);
    sums.push_back(before - last.seconds);
  }
  const Bytes room = trace.beside_scratch(budget);
  return std::max(trace.seconds() + std::max(0.0, most - static_cast<double>(room) / rates.up),
                  least_seconds_of_a_pass(trace, room, rates));
}

}  // namespace vramx
