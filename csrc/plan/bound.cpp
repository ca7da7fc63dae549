#include "plan/bound.hpp"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <vector>

namespace vramx {

namespace {

/// By step: the seconds that what is used there first takes on the link.
std::vector<double> crossings(const Trace& trace, Rates link) {
  std::vector<double> crossing;
  std::vector<bool> counted(trace.blocks.size());
  for (const Step& step : trace.steps) {
    Bytes bytes = 0;
    for (const auto block : step.blocks) {
      if (counted.at(block)) continue;
      counted[block] = true;
      bytes += trace.blocks[block].size;
    }
    crossing.push_back(static_cast<double>(bytes) / link.up);
  }
  return crossing;
}

}  // namespace

double least_seconds(const Trace& trace, Bytes budget, Rates link) {
  const std::size_t steps = trace.steps.size();
  const std::vector<double> crossing = crossings(trace, link);
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
  return trace.seconds() + std::max(0.0, most - static_cast<double>(room) / link.up);
}

}  // namespace vramx
