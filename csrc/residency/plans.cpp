// The plan in force: made from what was recorded, followed use by use, and given up where it fails.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.hpp"
#include "residency/residency.hpp"

namespace vramx {

namespace {

// How many uses ahead are looked at in one go.
constexpr std::size_t uses_ahead = 1024;

// So many uses off the plan's course and the program is taken to do something else now.
constexpr std::uint64_t lost_after = 64;

// A plan is changed for another only if its passes are predicted to cost this many times as much.
constexpr double worth_a_change = 1.02;

// The most rounds between looks at a plan that has proved right.
constexpr std::uint64_t longest_pause = 256;

// Uses to let go by where the times are not known yet.
constexpr std::uint64_t patience = 16;

}  // namespace

using State = Block::State;
using Preference = Block::Preference;

Fence Residency::time_now(Stream stream) noexcept {
  try {
    return device_->clock(stream);
  } catch (const Error&) {
    return nullptr;  // this use is not recorded, and what is known stays
  }
}

void Residency::record(GroupId group, Fence asked, Fence began) {
  if (!began) return recorder_.clear();
  Recorder::Use use{.groups = {group},
                    .asked = asked,
                    .waited = planned_ ? std::exchange(planned_, nullptr) : asked,
                    .began = std::move(began)};
  use.groups.insert(use.groups.end(), in_use_.begin(), std::prev(in_use_.end()));
  recorder_.add(std::move(use));
}

// A use begins: the one before it is over, and what the plan does not keep of it may leave.
void Residency::follow(GroupId group, Stream stream) {
  order_.used(group);
  if (!settings_.adaptive) return;
  ++uses_;
  const Bytes scratch = table_.take_most_scratch();
  round_scratch_ = std::max(round_scratch_, scratch);
  recorder_.end_use(scratch);
  const auto rounds = rounds_recorded_;
  plan_if_due();
  // Planning holds up a program that gives the card no work ahead; that is no fault of the plan's.
  planned_ = rounds_recorded_ != rounds ? time_now(stream) : nullptr;
  if (!schedule_) return;
  const auto before = schedule_->position();
  const bool on_course = schedule_->used(group);
  if (before && on_course) {
    for (const BlockId id : schedule_->blocks_at(*before)) release_unless_stays(id);
    seen_scratch_[*before] = scratch;
    off_course_ = 0;
  } else if (++off_course_ % lost_after == 0) {
    plan_from_scratch();
  }
  if (schedule_->position() == 0) follow_scratch();
  for (const BlockId id : table_.group(group).blocks) {
    if (!table_[id].released) continue;
    const auto change = table_.change(id);
    table_[id].released = false;
  }
}

void Residency::release_unless_stays(BlockId id) {
  const bool leaves = !schedule_->stays(id);
  if (table_[id].released == leaves) return;
  const auto change = table_.change(id);
  table_[id].released = leaves;
}

void Residency::plan_if_due() {
  const bool looks_again = rounds_to_plan_ == 0 && uses_ >= look_again_at_use_;
  if (rounds_to_plan_ == 0 && !looks_again) return;
  if (uses_ < plan_from_use_ || at_rest()) return;
  const auto length = order_.cycle();
  if (!length) return;
  if (looks_again) {
    recorder_.clear();
    rounds_to_plan_ = 1;
    plan_from_use_ = uses_ + Recorder::rounds_compared * *length;
    return;
  }
  plan_from_use_ = uses_ + *length;
  // A loop inside a longer cycle, perhaps; it needs no plan.
  fits_ = fits(*length, scratch_of_rounds(*length));
  if (fits_) return;
  if (!plan_round(*length)) {
    plan_from_use_ = uses_ + patience;
  } else if (--rounds_to_plan_ == 0) {
    look_again_at_use_ = uses_ + pause_ * *length;
    pause_ = std::min(2 * pause_, longest_pause);
  }
}

/// The most there was in the last rounds of `length` uses.
Bytes Residency::scratch_of_rounds(std::size_t length) {
  if (uses_ >= round_of_scratch_ + length) {
    last_scratch_ = std::exchange(round_scratch_, table_.sums().unplanned_scratch);
    round_of_scratch_ = uses_;
  }
  return std::max(last_scratch_, round_scratch_);
}

/// Whether all that was used last, `length` uses long, is within the budget beside the scratch.
bool Residency::fits(std::size_t length, Bytes scratch) const {
  std::unordered_set<BlockId> counted;
  Bytes total = scratch;
  for (std::size_t ago = 0; ago < length; ++ago) {
    for (const BlockId id : table_.group(order_.recent(ago)).blocks) {
      const Block& block = table_[id];
      if (!block.unplanned_scratch() && counted.insert(id).second) total += block.range.size;
    }
    if (total > budget_) return false;
  }
  return true;
}

bool Residency::plan_round(std::size_t length) {
  const auto round = recorder_.last_round(*device_, length);
  if (!round) return false;
  for (std::size_t i = 0; i < length; ++i) {
    if (round->uses[i]->groups.front() == order_.recent(round->ago + length - i)) continue;
    recorder_.clear();  // a use in between was not recorded
    return false;
  }
  Trace trace;
  std::vector<Schedule::Use> cycle;
  std::unordered_map<BlockId, std::uint32_t> places;
  for (std::size_t i = 0; i < length; ++i) {
    Schedule::Use use{.group = round->uses[i]->groups.front(), .blocks = {}};
    Step step{.blocks = {}, .seconds = round->seconds[i], .scratch = round->uses[i]->scratch};
    for (const GroupId group : round->uses[i]->groups) {
      for (const BlockId id : table_.group(group).blocks) {
        if (std::find(use.blocks.begin(), use.blocks.end(), id) != use.blocks.end()) continue;
        if (table_[id].preference == Preference::host) continue;
        const auto [it, fresh] = places.try_emplace(id, trace.blocks.size());
        if (fresh) {
          const Block& block = table_[id];
          trace.blocks.push_back({block.range.size, block.leaves() == Leave::write_back});
        }
        use.blocks.push_back(id);
        step.blocks.push_back(it->second);
      }
    }
    cycle.push_back(std::move(use));
    trace.steps.push_back(std::move(step));
  }
  Bytes counted = 0;  // as the program's, and as the cycle's
  for (const auto& [id, place] : places) {
    if (table_[id].unplanned_scratch()) counted += table_[id].range.size;
  }
  for (Step& step : trace.steps) step.scratch -= std::min(step.scratch, counted);
  // The round's last use came `ago` uses before the last one that was recorded.
  std::size_t position = (round->ago - 1) % length;
  if (schedule_) {
    // Begun where the present plan begins, so that like times give a like plan.
    const std::size_t begin = schedule_->begin_in(cycle).value_or(0);
    const auto turn = static_cast<std::ptrdiff_t>(begin);
    std::rotate(cycle.begin(), cycle.begin() + turn, cycle.end());
    std::rotate(trace.steps.begin(), trace.steps.begin() + turn, trace.steps.end());
    position = (position + length - begin) % length;
  }
  ++rounds_recorded_;
  if (!schedule_ && keeps_streaming(*round)) return true;
  if (schedule_ && leaves_plan(*round)) return true;
  if (adopt_plan(std::move(cycle), std::move(trace), position)) pause_ = first_pause;
  return true;
}

/// Whether the plan was left, and what is brought without one still comes sooner.
bool Residency::keeps_streaming(const Recorder::Round& round) {
  trial_.streamed(round.stalled, round.worked);
  if (!trial_.left()) return false;
  // What the plan left behind is there for a round or two.
  if (rounds_to_plan_ > 1) return true;
  if (trial_.stays_left(round.stalled, round.worked, round.uses.size())) return true;
  trial_.take_up();
  return false;
}

bool Residency::leaves_plan(const Recorder::Round& round) {
  if (!trial_.leaves_plan(round.stalled, round.worked, round.uses.size())) {
    if (trial_.suspects()) rounds_to_plan_ = std::max(rounds_to_plan_, 2U);
    return false;
  }
  drop_plan();
  rounds_to_plan_ = rounds_planned + 1;
  return true;
}

/// Something else is to be planned than before: what was learned of the last plan is void.
void Residency::plan_from_scratch() {
  trial_ = {};
  pause_ = first_pause;
  rounds_to_plan_ = rounds_planned;
}

LinkRates Residency::link_rates() const {
  return {.to_card = device_->facts().to_card, .to_host = device_->facts().to_host};
}

/// Returns whether another plan is in force now than before.
bool Residency::adopt_plan(std::vector<Schedule::Use> cycle, Trace trace, std::size_t position) {
  if (trace.largest_step() + trace.least_scratch() > budget()) {
    return drop_plan() != nullptr;  // a use goes over the link: there is no plan for that
  }
  const LinkRates link = link_rates();
  Plan plan = make_plan(trace, budget(), link);
  if (schedule_ && schedule_->begin_in(cycle) == 0) {
    const Prediction present = predict(trace, schedule_->plan(), budget(), link);
    if (cost(present, link) <= worth_a_change * cost(plan.predicted, link)) return false;
  }
  drop_plan();
  schedule_ =
      std::make_unique<Schedule>(std::move(cycle), std::move(trace), std::move(plan), position);
  seen_scratch_ = schedule_->scratch();
  for (const auto& use : schedule_->cycle()) {
    for (const BlockId id : use.blocks) {
      const auto change = table_.change(id);
      table_[id].planned = true;
    }
    for (const BlockId id : use.blocks) release_unless_stays(id);
  }
  table_.take_most_scratch();
  look_from_room_ = 0;
  if (journal_) note_plan();
  return true;
}

// The budget has changed, or what must be kept out of it.
void Residency::plan_again(const std::vector<Bytes>& scratch) {
  const auto last = drop_plan();
  if (!last) return plan_from_scratch();
  trial_ = {};
  if (last->position()) {
    Trace trace = last->trace();
    for (std::size_t i = 0; i < scratch.size(); ++i) trace.steps[i].scratch = scratch[i];
    adopt_plan(last->cycle(), std::move(trace), *last->position());
  }
  if (!schedule_) plan_from_scratch();
}

// A round begins. What varies from round to round counts with the most of it.
void Residency::follow_scratch() {
  const std::vector<Bytes> planned = schedule_->scratch();
  std::vector<Bytes> seen = std::exchange(seen_scratch_, planned);
  Bytes more = 0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    more = std::max(more, seen[i] - std::min(seen[i], planned[i]));
  }
  const auto most = [](const std::vector<Bytes>& of) { return *std::ranges::max_element(of); };
  if (more > settings_.block) {
    for (std::size_t i = 0; i < seen.size(); ++i) seen[i] = std::max(seen[i], planned[i]);
    plan_again(seen);
  } else if (most(seen) + settings_.block < most(planned)) {
    plan_again(seen);
  }
}

std::unique_ptr<Schedule> Residency::drop_plan() {
  if (!schedule_) return nullptr;
  for (BlockId id = 0; id < table_.size(); ++id) {
    if (!table_[id].planned) continue;
    const auto change = table_.change(id);
    table_[id].planned = table_[id].released = false;
  }
  return std::move(schedule_);
}

// In the order of need, as far as there is room: what stays is left alone.
void Residency::bring_planned() {
  // What the program allocates comes and goes: room is left for the most there will be meanwhile.
  Bytes scratch = table_.sums().unplanned_scratch;
  Bytes room = 0;
  const auto leave_room_for = [&](Bytes planned) {
    scratch = std::max(scratch, planned);
    const Bytes taken = scratch + table_.sums().committed - table_.sums().unplanned_scratch;
    room = budget_ + table_.sums().leavable - std::min(budget_ + table_.sums().leavable, taken);
  };
  leave_room_for(schedule_->present_scratch());
  if (room < look_from_room_ && looked_at_version_ == table_.host_version()) return;
  look_from_room_ = 0;
  ++window_;
  Blocks wanted;
  Bytes total = 0;
  std::size_t looked_at = 0;
  schedule_->ahead([&](const Blocks& blocks, Bytes planned) {
    leave_room_for(planned);
    for (const BlockId id : blocks) {
      Block& block = table_[id];
      if (block.state != State::host || block.leases > 0 || block.window == window_) continue;
      block.window = window_;
      total += block.range.size;
      if (total > room) {
        look_from_room_ = block.range.size;
        looked_at_version_ = table_.host_version();
        return false;
      }
      wanted.push_back(id);
    }
    return ++looked_at < uses_ahead;
  });
  if (wanted.empty()) return;
  bring(wanted, Brought::plan, [this](BlockId other) {
    return may_leave(other) && (table_[other].leavable() || table_[other].dead);
  });
}

}  // namespace vramx
