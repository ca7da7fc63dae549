// Taking some of many spans away evenly in the time of a pass.
#pragma once

#include <cstddef>
#include <vector>

#include "plan/spans.hpp"

namespace vramx {

/// Steps on an axis of compute time; of bytes, where no time is known.
class Axis {
 public:
  explicit Axis(const Trace& trace);

  double total() const { return begins_.back(); }
  double length(const Span& span) const { return begin(span.to) - begins_[span.from]; }
  /// The middle of the step that ends a span, as a part of the pass.
  double part(const Span& span) const {
    const std::size_t step = span.to % steps();
    return (begins_[step] + begins_[step + 1]) / 2 / total();
  }

 private:
  std::size_t steps() const { return begins_.size() - 1; }
  double begin(std::size_t step) const {
    return begins_[step % steps()] + (step >= steps() ? total() : 0);
  }

  std::vector<double> begins_;
};

/// A span that may be taken away, and the bytes that go with it.
struct Taken {
  std::size_t at = 0;  ///< the span's place among all
  double part = 0;     ///< Axis::part
  double bytes = 0;
};

/// The group without `leaving` bytes, taken away evenly along the axis. After a while with little
/// to take no more than a burst is made up for at once; the rest is spread evenly again.
std::vector<Taken> thinned(std::vector<Taken> group, double leaving, double burst);

}  // namespace vramx
