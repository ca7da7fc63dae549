// Most recently used leaves first: optimal for a cycle larger than the budget.
#pragma once

#include "strategy/recency.hpp"
#include "strategy/strategy.hpp"

namespace vramx {

class Mru final : public Strategy {
 public:
  void arrived(BlockId block) override { recency_.newest(block); }
  void touched(BlockId block) override { recency_.newest(block); }
  void left(BlockId block) override { recency_.remove(block); }
  std::optional<BlockId> victim(const MayLeave& may_leave) const override {
    const auto& order = recency_.oldest_first();
    for (auto block = order.rbegin(); block != order.rend(); ++block) {
      if (may_leave(*block)) return *block;
    }
    return std::nullopt;
  }

 private:
  Recency recency_;
};

}  // namespace vramx
