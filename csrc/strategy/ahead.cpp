// What comes next: by the plan in force, or by the order learned.
#include <algorithm>

#include "strategy/adaptive.hpp"

namespace vramx {

namespace {

// How many uses ahead are looked at in one go.
constexpr std::size_t uses_ahead = 1024;

// How many uses ahead blocks are unpacked from copies on the card, which takes less than a use.
constexpr std::size_t uses_unpacked_ahead = 3;

// How far ahead of the present use blocks are fetched without a plan: enough to keep two lanes busy
// while an eviction waits for its last use, little enough to evict nothing that is needed sooner.
constexpr std::size_t blocks_ahead = 8;
constexpr std::size_t groups_ahead = 64;

/// Whether it comes from its packed copy on the card, without the link.
bool is_unpacked(const Block& block) { return block.keeps_packed && block.packed_on_card; }

/// The room that a block takes as it comes: a packed copy that is to stay comes with it.
Bytes taken_by(const Block& block) {
  const bool with_copy = block.keeps_packed && !block.packed_on_card;
  return block.range.size + (with_copy ? block.packed_room : 0);
}

}  // namespace

Ahead Adaptive::ahead() {
  if (at_rest()) return {};
  return schedule_ && schedule_->on_course() ? by_plan() : by_order();
}

// In the order of need, as far as there is room: what stays is left alone.
Ahead Adaptive::by_plan() {
  // What the program allocates comes and goes: room is left for the most there will be meanwhile.
  const Sums& sums = table_.sums();
  Bytes scratch = sums.unplanned_scratch;
  Bytes room = 0;
  const auto leave_room_for = [&](Bytes planned) {
    scratch = std::max(scratch, planned);
    const Bytes taken = scratch + sums.held[Place::card] - sums.unplanned_scratch;
    const Bytes most = view_.budget + sums.unneeded;
    room = most - std::min(most, taken);
  };
  leave_room_for(schedule_->present_scratch());
  if (room < look_from_room_ && looked_at_version_ == table_.host_version()) return {};
  look_from_room_ = 0;
  ++window_;
  Ahead next{.wanted = {}, .why = FetchCause::plan, .evictable = [this](BlockId other) {
               const Block& block = table_[other];
               return block.evictable() && block.unneeded() && !reuses(other);
             }};
  Bytes total = 0;
  Bytes unpacked = 0;  // on the card or wanted, of those that are unpacked from copies there
  for (const BlockId id : schedule_->blocks_at(*schedule_->position())) {
    if (is_unpacked(table_[id])) unpacked += table_[id].range.size;
  }
  bool later = false;
  std::size_t looked_at = 0;
  schedule_->ahead([&](const Blocks& blocks, Bytes planned) {
    leave_room_for(planned);
    for (const BlockId id : blocks) {
      Block& block = table_[id];
      const bool from_packed = is_unpacked(block);
      if (block.window == window_) continue;
      if (from_packed && looked_at < uses_unpacked_ahead) unpacked += block.range.size;
      if (!block.away() || block.leases > 0) continue;
      if (from_packed && looked_at >= uses_unpacked_ahead) {
        later = true;
        continue;
      }
      block.window = window_;
      total += taken_by(block);
      // What comes over the link leaves room for what is unpacked before it is needed.
      const Bytes most = schedule_->room_to_unpack();
      const Bytes left_free = from_packed ? 0 : most - std::min(most, unpacked);
      if (total + left_free > room) {
        // A smaller block that is not looked at yet may be unpacked when its time comes.
        look_from_room_ = later ? 0 : block.range.size;
        looked_at_version_ = table_.host_version();
        return false;
      }
      next.wanted.push_back(id);
    }
    return ++looked_at < uses_ahead;
  });
  scratch_ahead_ = scratch;
  return next;
}

bool Adaptive::reuses(BlockId id) const {
  const Block& block = table_[id];
  const Sums& sums = table_.sums();
  return block.dead && block.purpose == Purpose::scratch &&
         sums.unplanned_scratch + sums.dead_scratch < scratch_ahead_ + block.range.size;
}

Ahead Adaptive::by_order() {
  const Bytes beside_leased = budget() - std::min<Bytes>(table_.sums().leased, budget());
  scratch_ahead_ = std::max(last_scratch_, pass_scratch_);
  const Bytes limit = std::min({blocks_ahead * view_.block, beside_leased / 2,
                                beside_leased - std::min(beside_leased, scratch_ahead_)});
  ++window_;
  Ahead next{.wanted = {}, .why = FetchCause::order, .evictable = [this](BlockId other) {
               const Block& block = table_[other];
               return block.evictable() && block.window != window_ && !reuses(other);
             }};
  Bytes total = 0;
  // As far as the order has been right, and up to what comes as it likes, such as the expert that a
  // router chooses: a wrong guess takes the place of something used before.
  const std::size_t trusted = std::min(groups_ahead, 2 * order_.followed());
  order_.ahead(trusted, [&](GroupId group) {
    if (!order_.trusts(group)) return false;
    for (const BlockId id : table_.group(group).blocks) {
      Block& block = table_[id];
      if (block.window == window_) continue;
      total += taken_by(block);
      if (total > limit) return false;
      block.window = window_;
      const bool in_place = block.preference == Block::Preference::host || block.leases > 0;
      if (block.away() && !in_place) next.wanted.push_back(id);
    }
    return true;
  });
  return next;
}

}  // namespace vramx
