#include "strategy/adaptive.hpp"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.hpp"
#include "device/packing.hpp"
#include "plan/bound.hpp"

namespace vramx {

namespace {

// So many uses off the plan's course and the program is taken to do something else now.
constexpr std::uint64_t lost_after = 64;

// A plan is changed for another only if its passes are predicted to cost this many times as much.
constexpr double worth_a_change = 1.02;

// The most passes between looks at a plan that has proved right.
constexpr std::uint64_t longest_pause = 256;

// Uses to let go by where the times are not known yet.
constexpr std::uint64_t patience = 16;

}  // namespace

void Adaptive::began(const std::vector<GroupId>& in_use, Fence asked, Fence began) {
  if (!began) return recorder_.clear();
  Recorder::Use use{.groups = {in_use.back()},
                    .asked = asked,
                    .waited = planned_ ? std::exchange(planned_, nullptr) : asked,
                    .began = std::move(began)};
  use.groups.insert(use.groups.end(), in_use.begin(), std::prev(in_use.end()));
  recorder_.add(std::move(use));
}

std::optional<BlockId> Adaptive::released_victim(const Evictable& evictable) const {
  const auto found = std::ranges::find_if(table_.released(), evictable);
  return found == table_.released().end() ? std::nullopt : std::optional(*found);
}

// A use begins: the one before it is over, and what the plan does not keep of it may leave.
void Adaptive::used(GroupId group, Stream stream) {
  order_.used(group);
  ++uses_;
  const Bytes scratch = table_.take_most_scratch();
  pass_scratch_ = std::max(pass_scratch_, scratch);
  recorder_.end_use(scratch);
  const auto passes = passes_recorded_;
  plan_if_due();
  // Planning holds up a program that gives the card no work ahead; that is no fault of the plan's.
  planned_ =
      passes_recorded_ != passes ? clock_or_nothing(view_.device.streams(), stream) : nullptr;
  if (!schedule_) return;
  const auto before = schedule_->position();
  const bool on_course = schedule_->used(group);
  if (before && on_course) {
    for (const BlockId id : schedule_->blocks_at(*before)) release_unless_kept(id);
    seen_scratch_[*before] = scratch;
    off_course_ = 0;
  } else if (++off_course_ % lost_after == 0) {
    plan_from_scratch();
  }
  if (schedule_->position() == 0) follow_scratch();
  for (const BlockId id : table_.group(group).blocks) mark_released(id, false);
}

void Adaptive::mark_released(BlockId id, bool released) {
  if (table_[id].released == released) return;
  const auto change = table_.change(id);
  table_[id].released = released;
}

void Adaptive::release_unless_kept(BlockId id) { mark_released(id, !schedule_->keeps(id)); }

void Adaptive::plan_if_due() {
  const bool looks_again = passes_to_plan_ == 0 && uses_ >= look_again_at_use_;
  if (passes_to_plan_ == 0 && !looks_again) return;
  if (uses_ < plan_from_use_ || at_rest()) return;
  const auto length = order_.cycle();
  if (!length) return;
  if (looks_again) {
    recorder_.clear();
    passes_to_plan_ = 1;
    plan_from_use_ = uses_ + Recorder::passes_compared * *length;
    return;
  }
  plan_from_use_ = uses_ + *length;
  // A loop inside a longer cycle, perhaps; it needs no plan.
  fits_ = fits(*length, scratch_of_passes(*length));
  if (fits_) return;
  if (!plan_pass(*length)) {
    plan_from_use_ = uses_ + patience;
  } else if (--passes_to_plan_ == 0) {
    look_again_at_use_ = uses_ + pause_ * *length;
    pause_ = std::min(2 * pause_, longest_pause);
  }
}

/// The most there was in the last passes of `length` uses.
Bytes Adaptive::scratch_of_passes(std::size_t length) {
  if (uses_ >= pass_of_scratch_ + length) {
    last_scratch_ = std::exchange(pass_scratch_, table_.sums().unplanned_scratch);
    pass_of_scratch_ = uses_;
  }
  return std::max(last_scratch_, pass_scratch_);
}

/// Whether all that was used last, `length` uses long, is within the budget beside the scratch.
bool Adaptive::fits(std::size_t length, Bytes scratch) const {
  std::unordered_set<BlockId> counted;
  Bytes total = scratch;
  for (std::size_t ago = 0; ago < length; ++ago) {
    for (const BlockId id : table_.group(order_.recent(ago)).blocks) {
      const Block& block = table_[id];
      if (!block.unplanned_scratch() && counted.insert(id).second) total += block.range.size;
    }
    if (total > budget()) return false;
  }
  return true;
}

bool Adaptive::plan_pass(std::size_t length) {
  const auto pass = recorder_.last_pass(view_.device, length);
  if (!pass) return false;
  for (std::size_t i = 0; i < length; ++i) {
    if (pass->uses[i]->groups.front() == order_.recent(pass->ago + length - i)) continue;
    recorder_.clear();  // a use in between was not recorded
    return false;
  }
  Trace trace;
  // Without room for packed bytes to arrive in they are of no use.
  const bool alone = packed_alone();
  const bool packs = table_.sums().staging > 0;
  std::vector<Schedule::Use> cycle;
  std::unordered_map<BlockId, std::uint32_t> places;
  for (std::size_t i = 0; i < length; ++i) {
    Schedule::Use use{.group = pass->uses[i]->groups.front(), .blocks = {}};
    Step step{.blocks = {}, .seconds = pass->seconds[i], .scratch = pass->uses[i]->scratch};
    for (const GroupId group : pass->uses[i]->groups) {
      for (const BlockId id : table_.group(group).blocks) {
        if (std::find(use.blocks.begin(), use.blocks.end(), id) != use.blocks.end()) continue;
        if (table_[id].preference == Block::Preference::host) continue;
        const auto [it, fresh] = places.try_emplace(id, trace.blocks.size());
        if (fresh) {
          const Block& block = table_[id];
          trace.blocks.push_back({.size = block.range.size,
                                  .written = block.evict_mode(Place::card) == EvictMode::write_back,
                                  .packed = packs && block.unpacks() ? block.packed : 0,
                                  .packed_room = block.packed_room,
                                  .alone = alone});
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
  // The pass's last use came `ago` uses before the last one that was recorded.
  std::size_t position = (pass->ago - 1) % length;
  if (schedule_) {
    // Begun where the present plan begins, so that like times give a like plan.
    const std::size_t begin = schedule_->begin_in(cycle).value_or(0);
    const auto shift = static_cast<std::ptrdiff_t>(begin);
    std::rotate(cycle.begin(), cycle.begin() + shift, cycle.end());
    std::rotate(trace.steps.begin(), trace.steps.begin() + shift, trace.steps.end());
    position = (position + length - begin) % length;
  }
  ++passes_recorded_;
  if (!schedule_ && keeps_streaming(*pass)) return true;
  if (schedule_ && leaves_plan(*pass)) return true;
  if (schedule_ && schedule_->begin_in(cycle) == 0) {
    // Work that unpacking slows more than it should says nothing of other plans.
    if (schedule_->plan().predicted.unpacked > 0 && trial_.suspects()) return true;
    take_unpacking_off(trace, *pass);
  }
  if (adopt_plan(std::move(cycle), std::move(trace), position)) pause_ = first_pause;
  return true;
}

/// Whether the plan was left, and what is fetched without one still comes sooner.
bool Adaptive::keeps_streaming(const Recorder::Pass& pass) {
  trial_.streamed(pass.stalled, pass.worked);
  if (!trial_.left()) return false;
  // What the plan left behind is there for a pass or two.
  if (passes_to_plan_ > 1) return true;
  if (trial_.stays_left(pass.stalled, pass.worked, pass.uses.size())) return true;
  trial_.take_up();
  return false;
}

/// The card's kernels run slower while it unpacks beside them, so that times measured under a plan
/// may contain some of what it unpacks, or all of it. As much of that is taken off as the passes
/// would take longer by the plan's prediction than they did. Then a plan is compared with another
/// as it was when it was made, and the two do not take turns.
void Adaptive::take_unpacking_off(Trace& trace, const Recorder::Pass& pass) const {
  const Rates link = link_rates();
  const Prediction present = predict(trace, schedule_->plan(), budget(), link);
  const double contained =
      std::clamp(present.seconds - pass.worked - pass.stalled, 0.0, unpacking(present, link));
  const double work = trace.seconds();
  for (Step& step : trace.steps) step.seconds *= work > contained ? 1 - contained / work : 1;
}

bool Adaptive::leaves_plan(const Recorder::Pass& pass) {
  const double unpacks = unpacking(schedule_->plan().predicted, link_rates());
  if (!trial_.leaves_plan(pass.stalled, pass.worked, pass.uses.size(), unpacks)) {
    if (trial_.suspects()) passes_to_plan_ = std::max(passes_to_plan_, 2U);
    return false;
  }
  const auto last = drop_plan();
  passes_to_plan_ = passes_planned + 1;
  if (unpacks == 0 || packed_alone()) return true;
  // The same without packed copies may be the better way, by the times from which that was planned.
  trial_.give_up_packed();
  if (last->position()) adopt_plan(last->cycle(), last->trace(), *last->position());
  return true;
}

bool Adaptive::packed_alone() const {
  return !view_.device.memory(Purpose::weights).traits().keeps_raw;
}

/// Something else is to be planned than before: what was learned of the last plan is void.
void Adaptive::plan_from_scratch() {
  trial_ = {};
  pause_ = first_pause;
  passes_to_plan_ = passes_planned;
}

Rates Adaptive::link_rates() const {
  Store& weights = view_.device.memory(Purpose::weights);
  Rates rates = weights.link().rates();
  const Packing* packing = weights.packing();
  rates.unpack = packing == nullptr ? 0 : packing->rate();
  return rates;
}

/// Returns whether another plan is in force now than before.
bool Adaptive::adopt_plan(std::vector<Schedule::Use> cycle, Trace trace, std::size_t position) {
  if (trace.largest_step() + trace.least_scratch() > budget()) {
    return drop_plan() != nullptr;  // a use goes over the link: there is no plan for that
  }
  Rates link = link_rates();
  if (!trial_.packs()) link.unpack = 0;
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
      table_[id].keeps_packed = schedule_->keeps_packed(id);
      table_[id].crosses_packed = !schedule_->streams_raw(id);
    }
    for (const BlockId id : use.blocks) release_unless_kept(id);
  }
  table_.take_most_scratch();
  look_from_room_ = 0;
  view_.has_plan(schedule_->plan().predicted);
  return true;
}

// The budget has changed, or what must be kept out of it.
void Adaptive::plan_again(const std::vector<Bytes>& scratch) {
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

// A pass begins. What varies from pass to pass counts with the most of it.
void Adaptive::follow_scratch() {
  const std::vector<Bytes> planned = schedule_->scratch();
  std::vector<Bytes> seen = std::exchange(seen_scratch_, planned);
  Bytes more = 0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    more = std::max(more, seen[i] - std::min(seen[i], planned[i]));
  }
  const auto most = [](const std::vector<Bytes>& of) { return *std::ranges::max_element(of); };
  if (more > view_.block) {
    for (std::size_t i = 0; i < seen.size(); ++i) seen[i] = std::max(seen[i], planned[i]);
    plan_again(seen);
  } else if (most(seen) + view_.block < most(planned)) {
    plan_again(seen);
  }
}

std::unique_ptr<Schedule> Adaptive::drop_plan() {
  if (!schedule_) return nullptr;
  for (BlockId id = 0; id < table_.size(); ++id) {
    if (!table_[id].planned) continue;
    const auto change = table_.change(id);
    table_[id].planned = table_[id].released = table_[id].keeps_packed = false;
    table_[id].crosses_packed = true;
  }
  return std::move(schedule_);
}

bool Adaptive::keeps(const Blocks& blocks) const {
  if (!schedule_ || !schedule_->on_course()) return false;
  return std::all_of(blocks.begin(), blocks.end(),
                     [this](BlockId id) { return table_[id].planned && schedule_->keeps(id); });
}

bool Adaptive::always_keeps(BlockId block) const {
  return table_[block].planned && schedule_->always_keeps(block);
}

void Adaptive::redefines(GroupId group) {
  recorder_.clear();  // its uses name the group
  for (const BlockId id : table_.group(group).blocks) forgets(id);
}

void Adaptive::forgets(BlockId block) {
  if (table_[block].planned) drop_plan();
}

std::optional<PlanUsage> Adaptive::plan() const {
  if (!schedule_) return std::nullopt;
  const Trace& trace = schedule_->trace();
  PlanUsage usage{.passes = passes_recorded_,
                  .uses = trace.steps.size(),
                  .budget = trace.beside_scratch(budget()),
                  .ahead = schedule_->plan().ahead,
                  .compute_seconds = trace.seconds(),
                  .predicted = schedule_->plan().predicted};
  for (const auto& block : trace.blocks) usage.used += block.size;
  for (BlockId id = 0; id < table_.size(); ++id) {
    if (always_keeps(id)) usage.kept += table_[id].range.size;
    if (!table_[id].planned || !schedule_->keeps_packed(id)) continue;
    usage.kept_packed += table_[id].range.size;
    usage.packed_copies += table_[id].packed_room;
  }
  usage.bound_seconds = least_seconds(trace, budget(), link_rates());
  return usage;
}

}  // namespace vramx
