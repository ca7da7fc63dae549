// What is used again latest leaves first, by the order in which groups were used before.
#pragma once

#include <optional>
#include <vector>

#include "strategy/farthest.hpp"
#include "strategy/order.hpp"

namespace vramx {

class Clairvoyant final : public Farthest {
 public:
  explicit Clairvoyant(const BlockTable& table)
      : Farthest([this](BlockId block) { return next_use(block); }), table_(table) {}
  void guess(const std::vector<GroupId>& order) override { order_.seed(order); }
  void used(GroupId group, Stream /*stream*/) override { order_.used(group); }

 private:
  std::optional<std::uint64_t> next_use(BlockId block) const {
    std::optional<std::uint64_t> nearest;
    for (const GroupId group : table_.groups_of(block)) {
      const auto distance = order_.distance(group);
      if (distance && (!nearest || *distance < *nearest)) nearest = distance;
    }
    return nearest;
  }

  const BlockTable& table_;
  Order order_;
};

}  // namespace vramx
