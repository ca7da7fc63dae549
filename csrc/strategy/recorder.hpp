// The last uses and the times between them, of which traces are made.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "device/device.hpp"

namespace vramx {

class Recorder {
 public:
  struct Use {
    std::vector<GroupId> groups;     ///< leased during it; the one that it began with comes first
    Fence asked;                     ///< when the stream had done all before it
    Fence waited;                    ///< from when it waited for its blocks: later where it planned
    Fence began;                     ///< when they had come
    Bytes scratch = 0;               ///< the most that the program had allocated from then on
    std::optional<double> worked{};  ///< seconds from `began` to the next use, once asked for
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

  /// So many passes in a row say how long a use's work takes.
  static constexpr std::size_t passes_compared = 3;

  /// `count` uses in a row, the last whose times are known, and how many uses came after them.
  struct Pass {
    std::vector<const Use*> uses;
    /// Of work, by use: as a rule. What holds up one pass is of no use to the plan of the next.
    std::vector<double> seconds;
    double worked = 0;   ///< seconds in all, of this pass alone
    double stalled = 0;  ///< seconds that the uses waited for their blocks, in all
    std::size_t ago = 0;
  };
  std::optional<Pass> last_pass(Device& device, std::size_t count) {
    std::size_t known = uses_.size();
    // A virtual clock's times are known at once.
    const bool runs_behind = !device.facts().virtual_clock;
    while (runs_behind && known > count && !device.streams().reached(uses_[known - 1].asked))
      --known;
    if (known <= count) return std::nullopt;
    Pass pass;
    const std::size_t end = known - 1;  // the use that ends the last one of the pass
    for (std::size_t i = end - count; i < end; ++i) {
      pass.uses.push_back(&uses_[i]);
      pass.seconds.push_back(typical_work(device, i, count));
      pass.worked += work(device, i);
      pass.stalled += std::max(0.0, device.streams().seconds(uses_[i].waited, uses_[i].began));
    }
    pass.ago = uses_.size() - end;
    return pass;
  }

 private:
  static constexpr std::size_t most_uses = std::size_t{1} << 17;

  double work(Device& device, std::size_t use) {
    auto& worked = uses_[use].worked;
    if (!worked)
      worked = std::max(0.0, device.streams().seconds(uses_[use].began, uses_[use + 1].asked));
    return *worked;
  }

  /// The median of the passes that used the same, the present one and those before it.
  double typical_work(Device& device, std::size_t use, std::size_t count) {
    std::vector<double> seconds;
    for (std::size_t i = use; uses_[i].groups == uses_[use].groups; i -= count) {
      seconds.push_back(work(device, i));
      if (seconds.size() == passes_compared || i < count) break;
    }
    const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>((seconds.size() - 1) / 2);
    std::nth_element(seconds.begin(), middle, seconds.end());
    return *middle;
  }

  std::deque<Use> uses_;
};

}  // namespace vramx
