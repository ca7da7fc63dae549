// The way between a place and the one below it, which bytes cross in both directions.
//
// - A range consists of whole units of its store, counted from the start of the reserved range,
//   whose last unit may be shorter, and lies inside one reserved range.
// - fetch and evict of a range alternate. On throw nothing has changed.
// - No call synchronises the device. evict alone blocks the host, on its `after`.
// - All calls are safe from any thread. Two calls on overlapping ranges must not run at once.
#pragma once

#include <cstdint>

#include "base/range.hpp"
#include "base/rates.hpp"
#include "device/streams.hpp"

namespace vramx {

/// How a range comes up: the copy below stays valid, or does not, or there is nothing in it that
/// anybody needs and no bytes need cross.
enum class FetchMode : std::uint8_t { duplicate, move, empty };

/// What happens to the bytes above: forgotten because the copy below is valid, copied back, or
/// forgotten because nobody needs them.
enum class EvictMode : std::uint8_t { drop, write_back, discard };

/// The number of a copy queue, below Facts::lanes.
using Lane = unsigned;

class Route {
 public:
  virtual ~Route() = default;

  /// About what moves reach.
  virtual Rates rates() const = 0;
  /// Starts fetching `range` up on `lane` once `after` is reached; the fence marks arrival.
  virtual Fence fetch(Range range, FetchMode how, Lane lane, Fences after) = 0;
  /// Takes `range` off the place above once `after` is reached; the fence marks when its memory
  /// there is free. What is written back of weights with host addresses is there on return.
  virtual Fence evict(Range range, EvictMode how, Lane lane, Fences after) = 0;
  /// Whether a fetch takes a lane; else it has a queue of its own, and takes so little that any
  /// number may wait in that.
  virtual bool crosses_link() const { return true; }
  /// As Streams::clock, of what a lane has been given; null where that is not told.
  virtual Fence lane_clock(Lane /*lane*/) { return nullptr; }
};

}  // namespace vramx
