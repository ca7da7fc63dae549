// The blocks on the card from the least to the most recently used: what several policies share.
#pragma once

#include <list>
#include <vector>

#include "base/ids.hpp"

namespace vramx {

class Recency {
 public:
  using Order = std::list<BlockId>;

  void newest(BlockId block) {
    if (block >= places_.size()) {
      places_.resize(block + 1, order_.end());
    }
    if (places_[block] == order_.end()) {
      places_[block] = order_.insert(order_.end(), block);
    } else {
      order_.splice(order_.end(), order_, places_[block]);
    }
  }

  void remove(BlockId block) {
    if (block < places_.size() && places_[block] != order_.end()) {
      order_.erase(places_[block]);
      places_[block] = order_.end();
    }
  }

  const Order& oldest_first() const { return order_; }

 private:
  Order order_;
  std::vector<Order::iterator> places_;
};

}  // namespace vramx
