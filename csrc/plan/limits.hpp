// What no way of moving blocks can beat, in seconds a pass: the formulas that every benchmark
// prints.
#pragma once

#include <algorithm>

#include "base/bytes.hpp"

namespace vramx {

/// One pass over `used` bytes with at most `budget` of them on the card.
struct PassLimits {
  Bytes used = 0;
  Bytes budget = 0;
  double link = 0;      ///< bytes a second towards the card
  double compute = 0;   ///< the pass with everything resident, seconds
  Bytes in_flight = 0;  ///< room for what is on its way or just leaving: slots times block size
  Bytes packed = 0;     ///< of all that is used, packed
  double unpack = 0;    ///< raw bytes a second that the card unpacks

  Bytes excess(Bytes room) const { return used > room ? used - room : 0; }
  double crossing(Bytes bytes) const { return static_cast<double>(bytes) / link; }

  /// Nothing that moves uncompressed bytes is faster.
  double fluid() const { return std::max(compute, crossing(excess(budget))); }
  /// What an evenly spread plan reaches. What fits needs no room in flight.
  double plan() const {
    const Bytes over = excess(budget);
    return std::max(compute, crossing(over > 0 ? std::min(used, over + in_flight) : 0));
  }
  /// What an even plan reaches that keeps and streams packed copies. What does not fit is unpacked,
  /// and where packed copies leave room some is kept raw.
  double with_packed() const {
    const Bytes over = excess(budget);
    if (over == 0 || packed == 0 || unpack == 0) return plan();
    const double rest = static_cast<double>(used - packed) / static_cast<double>(used);
    const double unpacked =
        std::min(static_cast<double>(used), static_cast<double>(over + in_flight) / rest);
    const Bytes on_card = packed + in_flight;
    return std::max(compute + unpacked / unpack,
                    crossing(std::min(packed, on_card - std::min(on_card, budget))));
  }
  /// What LRU reaches on a cycle that does not fit.
  double lru() const { return std::max(compute, crossing(excess(budget) > 0 ? used : 0)); }
};

}  // namespace vramx
