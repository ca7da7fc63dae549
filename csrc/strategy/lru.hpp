// Least recently used leaves first: for memory used in no known order.
#pragma once

#include "strategy/recency.hpp"
#include "strategy/strategy.hpp"

namespace vramx {

class Lru : public Strategy {
 public:
  void arrived(BlockId block) override { recency_.newest(block); }
  void touched(BlockId block) override { recency_.newest(block); }
  void left(BlockId block) override { recency_.remove(block); }
  std::optional<BlockId> victim(const MayLeave& may_leave) const override {
    for (const BlockId block : recency_.oldest_first()) {
      if (may_leave(block)) return block;
    }
    return std::nullopt;
  }

 private:
  Recency recency_;
};

}  // namespace vramx
