// The times between two uses of a block, as steps of a cycle, and the load that they put on the
// card.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/trace.hpp"

namespace vramx {

/// From one use of a block to the next. `to` may be the next pass's: then it exceeds the last
/// step.
struct Span {
  std::uint32_t block = 0;
  std::uint32_t from = 0;   ///< the step of the first use
  std::uint32_t place = 0;  ///< the block's place in that step
  std::uint32_t to = 0;     ///< the step of the next use, less than `from` + 1 + all steps
};

/// All spans, those between neighbouring steps included, by `from`.
std::vector<Span> spans_of(const Trace& trace);

/// Bytes by step of a cycle, with sums over runs of steps kept at once.
class Load {
 public:
  explicit Load(const std::vector<std::int64_t>& bytes);

  /// Adds to the steps strictly inside a span, in logarithmic time.
  void add(const Span& span, std::int64_t bytes);
  /// The same for each of many spans with the bytes at its place, in linear time at most.
  void add(const std::vector<Span>& spans, const std::vector<std::int64_t>& bytes);
  /// The largest load strictly inside a span; 0 for a span between neighbouring steps.
  std::int64_t most(const Span& span) const;
  std::int64_t most() const { return most_[1]; }

 private:
  template <class Visit>
  void inside(const Span& span, Visit&& visit) const;
  void add(std::size_t node, std::size_t first, std::size_t last, std::size_t from, std::size_t to,
           std::int64_t bytes);
  void add(std::size_t node, std::size_t first, std::size_t last,
           const std::vector<std::int64_t>& bytes_by_step);
  std::int64_t most(std::size_t node, std::size_t first, std::size_t last, std::size_t from,
                    std::size_t to) const;

  std::size_t steps_;
  std::vector<std::int64_t> most_;   ///< by node of a segment tree: within it, without its parents'
  std::vector<std::int64_t> added_;  ///< by node: to all of it
};

}  // namespace vramx
