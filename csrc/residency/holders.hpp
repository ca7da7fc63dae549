// Which threads hold leases, and whether it helps to wait for them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/host_clock.hpp"

namespace vramx {

class Holders {
 public:
  /// The calling thread holds one more lease, or one less.
  void add() {
    const auto mine = find();
    if (mine == holders_.end()) {
      holders_.push_back({std::this_thread::get_id(), 1});
    } else {
      ++mine->leases;
    }
    ++leases_;
  }
  void remove() {
    const auto mine = find();
    if (mine != holders_.end() && --mine->leases == 0) {
      *mine = holders_.back();
      holders_.pop_back();
    }
    --leases_;
  }
  std::uint64_t leases() const { return leases_; }

  /// Whether the calling thread, which holds none, may wait for what others hold. Of those that
  /// were waited for long enough it is not expected again that they end: another may be waiting for
  /// this one, as a module is for branches on threads of their own. Sooner so where this one can do
  /// `without`.
  bool may_wait(bool without) {
    if (holders_.empty() || find() != holders_.end()) return false;
    const double now = host_seconds();
    bool others = false;
    for (Holder& holder : holders_) {
      if (holder.seen == 0) holder.seen = now;
      holder.passed_over |= now - holder.seen > (without ? patience_without : patience);
      others |= !holder.passed_over;
    }
    return others;
  }

 private:
  static constexpr double patience = 10;  ///< seconds
  static constexpr double patience_without = 1;

  /// From its first lease on.
  struct Holder {
    std::thread::id thread;
    std::uint64_t leases = 0;
    double seen = 0;           ///< when another first waited for it, by the host's clock
    bool passed_over = false;  ///< others have waited for it long enough
  };

  std::vector<Holder>::iterator find() {
    return std::ranges::find(holders_, std::this_thread::get_id(), &Holder::thread);
  }

  std::vector<Holder> holders_;
  std::uint64_t leases_ = 0;
};

}  // namespace vramx
