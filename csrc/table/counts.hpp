// How often blocks came and left, why, and what it cost.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <numeric>

#include "device/device.hpp"

namespace vramx {

/// Why a block was brought: a use missed it, what was used before says that it comes next, the plan
/// says so, or the program asked for it.
enum class Brought : std::uint8_t { use, order, plan, prefetch };
inline constexpr std::array brought_names{"use", "order", "plan", "prefetch"};

/// Why a block left: room for a use, for what was brought ahead, or for what the program asked for;
/// because the plan let it go; because the program evicted it, made the budget smaller, or needed
/// the host copy.
enum class Left : std::uint8_t { use, ahead, prefetch, plan, evict, budget, host };
inline constexpr std::array left_names{"use",   "ahead",  "prefetch", "plan",
                                       "evict", "budget", "host"};

/// Of one block, or of several.
struct Counts {
  std::array<std::uint64_t, brought_names.size()> brought{};  ///< times, by Brought
  std::array<std::uint64_t, left_names.size()> left{};        ///< times, by Left
  std::uint64_t hits = 0, misses = 0;                         ///< times
  Bytes moved_in = 0, moved_out = 0, dropped = 0, discarded = 0, over_link = 0;

  std::uint64_t evictions() const {
    return std::accumulate(left.begin(), left.end(), std::uint64_t{0});
  }

  void used(bool on_card) { ++(on_card ? hits : misses); }
  void came(Brought why, Arrive how, Bytes size) {
    ++brought[static_cast<std::size_t>(why)];
    if (how != Arrive::empty) moved_in += size;
  }
  void went(Left why, Leave how, Bytes size) {
    ++left[static_cast<std::size_t>(why)];
    (how == Leave::write_back ? moved_out : how == Leave::discard ? discarded : dropped) += size;
  }

  Counts& operator+=(const Counts& other) {
    std::transform(brought.begin(), brought.end(), other.brought.begin(), brought.begin(),
                   std::plus());
    std::transform(left.begin(), left.end(), other.left.begin(), left.begin(), std::plus());
    hits += other.hits;
    misses += other.misses;
    moved_in += other.moved_in;
    moved_out += other.moved_out;
    dropped += other.dropped;
    discarded += other.discarded;
    over_link += other.over_link;
    return *this;
  }
};

}  // namespace vramx
