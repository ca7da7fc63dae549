#include "strategy/strategy.hpp"

namespace vramx {

std::optional<BlockId> Strategy::victim_below(Place place, const Evictable& evictable) const {
  const auto& order = below_card_[place].oldest_first();
  for (auto block = order.rbegin(); block != order.rend(); ++block) {
    if (evictable(*block)) return *block;
  }
  return std::nullopt;
}

void Strategy::moved(BlockId block, Place from, Place to) {
  if (from != Place::card) below_card_[from].remove(block);
  if (to != Place::card) below_card_[to].newest(block);
}

}  // namespace vramx
