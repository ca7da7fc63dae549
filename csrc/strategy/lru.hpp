// Least recently used leaves first: for memory used in no known order.
#pragma once

#include "strategy/recency.hpp"
#include "strategy/strategy.hpp"

namespace vramx {

class Lru : public Strategy {
 public:
  void fetched(BlockId block) override { recency_.newest(block); }
  void leased(BlockId block) override { recency_.newest(block); }
  void evicted(BlockId block) override { recency_.remove(block); }
  std::optional<BlockId> victim(const Evictable& evictable) const override {
    for (const BlockId block : recency_.oldest_first()) {
      if (evictable(block)) return block;
    }
    return std::nullopt;
  }

 private:
  Recency recency_;
};

}  // namespace vramx
