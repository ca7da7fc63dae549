// Learns the order in which groups are used, fetches ahead what comes next, and once a cycle of
// uses has been seen and timed, plans what stays on the card from one use to the next.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "plan/schedule.hpp"
#include "strategy/lru.hpp"
#include "strategy/order.hpp"
#include "strategy/recorder.hpp"
#include "strategy/trial.hpp"

namespace vramx {

/// What no plan knows leaves as least recently used.
class Adaptive final : public Lru {
 public:
  explicit Adaptive(const View& view) : view_(view), table_(view.table) {}

  std::optional<BlockId> released_victim(const Evictable& evictable) const override;
  void guess(const std::vector<GroupId>& order) override { order_.seed(order); }
  void used(GroupId group, Stream stream) override;
  void missed() override { fits_ = false; }
  bool wants_times() const override { return passes_to_plan_ > 0 && !at_rest(); }
  bool held_up() const override { return planned_ != nullptr; }
  void began(const std::vector<GroupId>& in_use, Fence asked, Fence began) override;
  Ahead ahead() override;
  bool reuses(BlockId block) const override;
  bool keeps(const Blocks& blocks) const override;
  bool always_keeps(BlockId block) const override;
  bool all_fits() const override { return fits_ && !schedule_; }
  std::optional<PlanUsage> plan() const override;
  void redefines(GroupId group) override;
  void forgets(BlockId block) override;
  void budget_changed() override { plan_again({}); }

 private:
  /// Planned anew after each of so many passes of a cycle: first uses take longer than later ones.
  static constexpr unsigned passes_planned = 3;
  /// Then some are looked at now and then, after so many others at first: times may have changed.
  static constexpr std::uint64_t first_pause = 16;

  /// Whether nothing that the program uses is about to come to the card, or to leave it.
  bool at_rest() const { return table_.sums().away == 0 || all_fits(); }
  Rates link_rates() const;
  /// Whether what is packed cannot cross the link raw.
  bool packed_alone() const;
  /// For blocks.
  Bytes budget() const {
    return view_.budget - std::min<Bytes>(table_.sums().reserved, view_.budget);
  }
  void mark_released(BlockId id, bool released);
  void release_unless_kept(BlockId id);

  void plan_if_due();
  Bytes scratch_of_passes(std::size_t length);
  bool fits(std::size_t length, Bytes scratch) const;
  bool plan_pass(std::size_t length);
  bool adopt_plan(std::vector<Schedule::Use> cycle, Trace trace, std::size_t position);
  bool keeps_streaming(const Recorder::Pass& pass);
  bool leaves_plan(const Recorder::Pass& pass);
  void take_unpacking_off(Trace& trace, const Recorder::Pass& pass) const;
  void plan_from_scratch();
  void plan_again(const std::vector<Bytes>& scratch);
  void follow_scratch();
  std::unique_ptr<Schedule> drop_plan();

  Ahead by_plan();
  Ahead by_order();

  View view_;
  BlockTable& table_;
  Order order_;
  Recorder recorder_;
  Fence planned_;                       ///< when the present use had planned; null where it has not
  std::unique_ptr<Schedule> schedule_;  ///< the plan in force, or null
  Trial trial_;
  unsigned passes_to_plan_ = passes_planned;
  std::uint64_t uses_ = 0;
  std::uint64_t plan_from_use_ = 0;
  std::uint64_t pause_ = first_pause;  ///< passes until the next look
  std::uint64_t look_again_at_use_ = 0;
  std::uint64_t passes_recorded_ = 0;
  std::uint64_t off_course_ = 0;  ///< uses since the plan last said what came
  bool fits_ = false;             ///< a whole cycle does, and no use has missed its blocks since
  Bytes pass_scratch_ = 0;        ///< the most unplanned scratch in the present pass
  Bytes last_scratch_ = 0;        ///< in the pass before
  std::uint64_t pass_of_scratch_ = 0;  ///< the use with which that pass ended
  std::vector<Bytes> seen_scratch_;    ///< by use of the plan's, in its present pass
  Bytes look_from_room_ = 0;           ///< what the next block to fetch by the plan takes, if known
  std::uint64_t looked_at_version_ = 0;  ///< of the table, then
  Bytes scratch_ahead_ = 0;              ///< the most allocated until what is fetched ahead is used
  std::uint64_t window_ = 0;             ///< the number of the present look ahead
};

}  // namespace vramx
