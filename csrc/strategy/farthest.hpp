// The block whose next use is farthest leaves first: Belady's MIN, "A study of replacement
// algorithms for a virtual-storage computer", IBM Systems Journal 5 (1966). As good as its future.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "strategy/recency.hpp"
#include "strategy/strategy.hpp"

namespace vramx {

/// How many uses from now a block is used again; none where nothing is known of it.
using NextUse = std::function<std::optional<std::uint64_t>(BlockId)>;

class Farthest : public Strategy {
 public:
  explicit Farthest(NextUse next_use) : next_use_(std::move(next_use)) {}
  void fetched(BlockId block) override { recency_.newest(block); }
  void leased(BlockId block) override { recency_.newest(block); }
  void evicted(BlockId block) override { recency_.remove(block); }
  std::optional<BlockId> victim(const Evictable& evictable) const override {
    // What is never used again is farthest; among equals the least recently used leaves.
    std::optional<BlockId> farthest;
    std::uint64_t distance = 0;
    for (const BlockId block : recency_.oldest_first()) {
      const auto next = next_use_(block).value_or(std::numeric_limits<std::uint64_t>::max());
      if ((!farthest || next > distance) && evictable(block)) {
        farthest = block;
        distance = next;
      }
    }
    return farthest;
  }

 private:
  NextUse next_use_;
  Recency recency_;
};

}  // namespace vramx
