// A plan in force: where in its cycle the program is, what stays from there, and what comes next.
#pragma once

#include <optional>
#include <vector>

#include "base/ids.hpp"
#include "plan/plan.hpp"

namespace vramx {

class Schedule {
 public:
  struct Use {
    GroupId group = 0;
    std::vector<BlockId> blocks;  ///< in the order of the plan's step
  };

  /// Of a plan for `cycle`, whose use at `position` is the present one.
  Schedule(std::vector<Use> cycle, Trace trace, Plan plan, std::size_t position);

  /// The program uses a group. Returns whether that is what the plan says, or the plan has been
  /// found again: two uses in a row that stand so in the cycle.
  bool used(GroupId group);
  /// The present use, while the program is where the plan says.
  std::optional<std::size_t> position() const { return on_course() ? position_ : std::nullopt; }
  bool on_course() const { return position_ && matched_ >= matches_needed; }

  /// Whether a known block stays from its last use to its next, as seen from the present use.
  bool keeps(BlockId block) const;
  /// Whether it stays from each of its uses to the next.
  bool always_keeps(BlockId block) const;
  /// Whether it is kept packed where it is not kept raw; and whether it crosses the link raw.
  bool keeps_packed(BlockId block) const { return ever(block, Level::kept_packed); }
  bool streams_raw(BlockId block) const { return ever(block, Level::streamed); }
  /// Raw bytes for which room is left beside what comes over the link: the next blocks that are
  /// kept packed are unpacked there.
  Bytes room_to_unpack() const { return room_to_unpack_; }
  const std::vector<BlockId>& blocks_at(std::size_t position) const {
    return cycle_[position].blocks;
  }
  /// Where this cycle begins in a cycle of the same groups; none if they are not the same.
  std::optional<std::size_t> begin_in(const std::vector<Use>& other) const;
  const std::vector<Use>& cycle() const { return cycle_; }
  const Trace& trace() const { return trace_; }
  const Plan& plan() const { return plan_; }

  /// Visits the blocks of the uses after the present one, and the scratch planned for them, until
  /// `visit` returns false or the cycle is round.
  template <class Visit>
  void ahead(Visit&& visit) const {
    for (std::size_t i = 1; position_ && i < cycle_.size(); ++i) {
      const std::size_t at = (*position_ + i) % cycle_.size();
      if (!visit(cycle_[at].blocks, trace_.steps[at].scratch)) return;
    }
  }
  /// By use.
  std::vector<Bytes> scratch() const;
  /// The present use's.
  Bytes present_scratch() const { return position_ ? trace_.steps[*position_].scratch : 0; }

 private:
  static constexpr unsigned matches_needed = 2;

  bool ever(BlockId block, Level level) const;

  std::vector<Use> cycle_;
  Trace trace_;
  Plan plan_;
  std::vector<std::vector<std::size_t>> places_of_;  ///< by group: where it stands in the cycle
  /// By block: its uses, and what becomes of it after each.
  std::vector<std::vector<std::pair<std::size_t, Level>>> uses_of_;
  Bytes room_to_unpack_ = 0;
  std::optional<std::size_t> position_;
  std::optional<GroupId> last_;
  unsigned matched_ = matches_needed;
};

}  // namespace vramx
