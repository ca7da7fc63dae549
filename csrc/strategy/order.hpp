// The order in which groups of blocks are used, learned as it happens, and what it says comes next.
//
// The history of uses is kept, and the present is matched against it: while the program does what
// it did before, a cursor walks along the earlier run one lag behind; when it departs, the last
// few uses are looked up again, the longest context first. No notion of a pass is needed, so that
// models by turns, a module used twice in one pass and the wrap from a pass's end to its start are
// one case. (The idea is that of context-matching predictors: Cleary and Witten's PPM, 1984.)
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.hpp"

namespace vramx {

class Order {
 public:
  /// A first guess, as if the groups had been used in this order once.
  void seed(const std::vector<GroupId>& groups);
  void used(GroupId group);
  /// Up to `count` groups expected next, nearest first; empty where nothing is known.
  template <class Visit>
  void ahead(std::size_t count, Visit&& visit) const {
    if (!cursor_) return;
    for (std::size_t i = 0; i < count; ++i) {
      if (!visit(history_[*cursor_ + 1 + i % lag()])) return;
    }
  }
  /// Whether the group came mostly when it was expected, lately; before it ever was, whether nearly
  /// all groups did.
  bool trusts(GroupId group) const {
    const bool known = group < foretold_right_.size() && foretold_right_[group] != unknown;
    return known ? foretold_right_[group] >= trusted : all_foretold_right_ >= nearly_all;
  }
  /// How many uses in a row have been foretold.
  std::size_t followed() const { return followed_; }
  /// The length of the cycle that the program has been round at least once more, use by use.
  std::optional<std::size_t> cycle() const {
    if (!cursor_ || followed_ < lag()) return std::nullopt;
    return lag();
  }
  /// The group used `ago` uses before the last one.
  GroupId recent(std::size_t ago) const { return history_[history_.size() - 1 - ago]; }
  /// How many uses from now `group` is expected; none where nothing is known of it.
  std::optional<std::uint64_t> distance(GroupId group) const;

 private:
  static constexpr std::size_t longest_context = 3;
  static constexpr std::size_t most_looked_at = 64;  ///< earlier uses of a group
  static constexpr std::size_t most_history = std::size_t{1} << 20;
  static constexpr float trusted = 0.5F;     ///< at least; and at first
  static constexpr float nearly_all = 0.8F;  ///< at least
  static constexpr float newest = 0.125F;    ///< the weight of the last expectation among all
  static constexpr float unknown = -1;

  std::size_t lag() const { return history_.size() - 1 - *cursor_; }
  void append(GroupId group);
  std::size_t context_shared_with(std::size_t place) const;
  void find_cursor();
  void forget_oldest();
  void judge(GroupId expected, bool came);

  std::vector<GroupId> history_;
  std::vector<std::vector<std::size_t>> places_;  ///< by group: where it stands in the history
  std::optional<std::size_t> cursor_;  ///< the earlier place that matches the present one
  std::vector<float> foretold_right_;  ///< by group: the share of expectations that came true
  float all_foretold_right_ = 1;       ///< the share of all groups'
  std::size_t followed_ = 0;           ///< uses in a row that the cursor's run foretold
};

}  // namespace vramx
