// How often blocks came and left, why, and what it cost.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <numeric>

#include "device/device.hpp"

namespace vramx {

/// Why a block was fetched: a use missed it, what was used before says that it comes next, the plan
/// says so, or the program asked for it.
enum class FetchCause : std::uint8_t { use, order, plan, prefetch };
inline constexpr std::array fetch_causes{"use", "order", "plan", "prefetch"};

/// Why a block left: room for a use, for what was fetched ahead, or for what the program asked for;
/// because the plan let it go; because the program evicted it, made the budget smaller, or needed
/// the host copy.
enum class EvictCause : std::uint8_t { use, ahead, prefetch, plan, evict, budget, host };
inline constexpr std::array evict_causes{"use",   "ahead",  "prefetch", "plan",
                                         "evict", "budget", "host"};

/// Of one block, or of several.
struct Counts {
  std::array<std::uint64_t, fetch_causes.size()> fetched{};  ///< times, by FetchCause
  std::array<std::uint64_t, evict_causes.size()> evicted{};  ///< times, by EvictCause
  std::uint64_t hits = 0, misses = 0;                        ///< times
  Bytes moved_in = 0, crossed_in = 0, moved_out = 0, dropped = 0, discarded = 0, over_link = 0;
  Bytes raised = 0, lowered = 0;  ///< copied to the host from the place below it, and back

  std::uint64_t evictions() const {
    return std::accumulate(evicted.begin(), evicted.end(), std::uint64_t{0});
  }

  void used(bool on_card) { ++(on_card ? hits : misses); }
  /// `crossed` bytes of the link's stood for them.
  void came(FetchCause why, FetchMode how, Bytes size, Bytes crossed) {
    ++fetched[static_cast<std::size_t>(why)];
    if (how == FetchMode::empty) return;
    moved_in += size;
    crossed_in += crossed;
  }
  void held_packed(Bytes size) { crossed_in += size; }
  void went(EvictCause why, EvictMode how, Bytes size) {
    ++evicted[static_cast<std::size_t>(why)];
    (how == EvictMode::write_back ? moved_out
     : how == EvictMode::discard  ? discarded
                                  : dropped) += size;
  }

  /// The same of the host and the place below it.
  void rose(FetchMode how, Bytes size) {
    if (how != FetchMode::empty) raised += size;
  }
  void fell(EvictMode how, Bytes size) {
    if (how == EvictMode::write_back) lowered += size;
  }

  Counts& operator+=(const Counts& other) {
    std::transform(fetched.begin(), fetched.end(), other.fetched.begin(), fetched.begin(),
                   std::plus());
    std::transform(evicted.begin(), evicted.end(), other.evicted.begin(), evicted.begin(),
                   std::plus());
    hits += other.hits;
    misses += other.misses;
    moved_in += other.moved_in;
    crossed_in += other.crossed_in;
    moved_out += other.moved_out;
    dropped += other.dropped;
    discarded += other.discarded;
    over_link += other.over_link;
    raised += other.raised;
    lowered += other.lowered;
    return *this;
  }
};

}  // namespace vramx
