// Most recently used leaves first: optimal for a cycle larger than the budget.
#pragma once

#include "strategy/recency.hpp"
#include "strategy/strategy.hpp"

namespace vramx {

class Mru final : public Strategy {
 public:
  void fetched(BlockId block) override { recency_.newest(block); }
  void leased(BlockId block) override { recency_.newest(block); }
  void evicted(BlockId block) override { recency_.remove(block); }
  std::optional<BlockId> victim(const Evictable& evictable) const override {
    const auto& order = recency_.oldest_first();
    for (auto block = order.rbegin(); block != order.rend(); ++block) {
      if (evictable(*block)) return *block;
    }
    return std::nullopt;
  }

 private:
  Recency recency_;
};

}  // namespace vramx
