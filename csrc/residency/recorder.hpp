// The last uses and the times between them, of which traces are made.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "device/device.hpp"
#include "policy/order.hpp"

namespace vramx {

class Recorder {
 public:
  struct Use {
    std::vector<GroupId> groups;  ///< leased during it; the one that it began with comes first
    Fence asked;                  ///< when the stream had done all before it
    Fence waited;                 ///< from when it waited for its blocks: later where it planned
    Fence began;                  ///< when they had come
    Bytes scratch = 0;            ///< the most that the program had allocated from then on
  };

  void add(Use use) {
    if (uses_.size() == most_uses) uses_.pop_front();
    uses_.push_back(std::move(use));
  }
  void clear() { uses_.clear(); }
  /// The most that the program had allocated since the last use began.
  void end_use(Bytes scratch) {
    if (!uses_.empty()) uses_.back().scratch = scratch;
  }

  /// `count` uses in a row, the last whose times are known, and how many uses came after them.
  struct Round {
    std::vector<const Use*> uses;
    std::vector<double> seconds;  ///< of work, by use
    double stalled = 0;           ///< seconds that the uses waited for their blocks, in all
    std::size_t ago = 0;
  };
  std::optional<Round> last_round(Device& device, std::size_t count) const {
    std::size_t known = uses_.size();
    // A virtual clock's times are known at once.
    const bool runs_behind = device.facts().asynchronous;
    while (runs_behind && known > count && !device.reached(uses_[known - 1].asked)) --known;
    if (known <= count) return std::nullopt;
    Round round;
    const std::size_t end = known - 1;  // the use that ends the last one of the round
    for (std::size_t i = end - count; i < end; ++i) {
      round.uses.push_back(&uses_[i]);
      round.seconds.push_back(std::max(0.0, device.seconds(uses_[i].began, uses_[i + 1].asked)));
      round.stalled += std::max(0.0, device.seconds(uses_[i].waited, uses_[i].began));
    }
    round.ago = uses_.size() - end;
    return round;
  }

 private:
  static constexpr std::size_t most_uses = std::size_t{1} << 17;

  std::deque<Use> uses_;
};

}  // namespace vramx
