#include "plan/spread.hpp"

#include <algorithm>
#include <numeric>

namespace vramx {

Axis::Axis(const Trace& trace) {
  const bool timed = trace.seconds() > 0;
  begins_.push_back(0);
  for (const Step& step : trace.steps) {
    double length = step.seconds;
    if (!timed) length = static_cast<double>(trace.bytes_of(step));
    begins_.push_back(begins_.back() + length);
  }
  if (total() > 0) return;
  std::iota(begins_.begin(), begins_.end(), 0.0);
}

std::vector<Taken> thinned(std::vector<Taken> group, double leaving, double burst) {
  std::stable_sort(group.begin(), group.end(),
                   [](const Taken& a, const Taken& b) { return a.part < b.part; });
  double rate = 1;  // so many times what would be even if there were something to take throughout
  while (leaving > 0 && !group.empty()) {
    double taken = 0;
    double forgone = 0;
    std::erase_if(group, [&](const Taken& each) {
      const double due = rate * leaving * each.part - taken;
      forgone = std::max(forgone, due - std::max(burst, each.bytes));
      if (taken >= leaving || each.bytes / 2 > due - forgone) return false;
      taken += each.bytes;
      return true;
    });
    if (taken == 0) {
      taken = group.front().bytes;
      group.erase(group.begin());
    }
    rate *= std::max(1.0, leaving / taken);
    leaving -= taken;
  }
  return group;
}

}  // namespace vramx
