#include "residency/moves.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace vramx {

using State = Block::State;

Moves::Moves(std::shared_ptr<Device> device, BlockTable& table, Strategy& strategy, Notes& notes,
             const Settings& settings, const std::atomic<Bytes>& budget, Finished finished)
    : device_(std::move(device)),
      table_(table),
      strategy_(strategy),
      notes_(notes),
      settings_(settings),
      budget_(budget),
      finished_(std::move(finished)),
      mover_(device_, settings.threaded, settings.profiled) {}

bool Moves::choose_victims(Bytes size, const MayLeave& may_leave, Blocks& victims) const {
  const std::size_t before = victims.size();
  Bytes held = table_.sums().committed;
  for (const BlockId id : victims) held -= table_[id].range.size;
  while (held + size > budget_) {
    const auto chosen = [&](BlockId id) {
      return std::find(victims.begin(), victims.end(), id) != victims.end();
    };
    const MayLeave if_must = [&](BlockId id) { return may_leave(id) && !chosen(id); };
    const MayLeave freely = [&](BlockId id) {
      return table_[id].preference != Block::Preference::device && if_must(id);
    };
    // What nobody needs leaves first, and what the plan lets go; then what leaves without a copy,
    // since a write-back and the way back in cost the link twice.
    std::optional<BlockId> victim;
    if (table_.sums().dead_on_card > 0) {
      victim = strategy_.victim([&](BlockId id) { return table_[id].dead && if_must(id); });
    }
    if (!victim) victim = strategy_.let_go(if_must);
    if (!victim) {
      victim = strategy_.victim(
          [&](BlockId id) { return table_[id].leaves() == Leave::drop && freely(id); });
    }
    if (!victim) victim = strategy_.victim(freely);
    if (!victim) victim = strategy_.victim(if_must);
    if (!victim) {
      victims.resize(before);
      return false;
    }
    if (*victim >= table_.size() || !if_must(*victim)) {
      throw Error("the policy chose block " + std::to_string(*victim) +
                  ", which may not leave; victim(may_leave) returns a block for which "
                  "may_leave(block) holds, or None");
    }
    victims.push_back(*victim);
    held -= table_[*victim].range.size;
  }
  return true;
}

// Neighbours in one job move in one request, where the first is there only when the last one is: so
// no more than a full block's bytes.
std::size_t Moves::bring(const Blocks& wanted, Brought why, const MayLeave& may_leave) {
  const Left room = why == Brought::use        ? Left::use
                    : why == Brought::prefetch ? Left::prefetch
                                               : Left::ahead;
  std::size_t count = 0;
  while (count < wanted.size()) {
    Blocks victims;
    Blocks arriving;
    Bytes size = 0;
    while (count + arriving.size() < wanted.size()) {
      const BlockId id = wanted[count + arriving.size()];
      const Bytes together = size + table_[id].range.size;
      if (!arriving.empty() && together > settings_.block) break;
      if (!choose_victims(together, may_leave, victims)) break;
      size = together;
      arriving.push_back(id);
    }
    if (arriving.empty()) break;
    count += arriving.size();
    submit(std::move(victims), std::move(arriving), room, why);
  }
  return count;
}

// All or nothing: a policy that throws is told the contrary of what it had been told.
void Moves::tell_strategy(const Blocks& leaving, const Blocks& arriving) {
  std::size_t told = 0;
  try {
    for (const BlockId id : leaving) {
      strategy_.left(id);
      ++told;
    }
    for (const BlockId id : arriving) {
      strategy_.arrived(id);
      ++told;
    }
  } catch (...) {
    for (std::size_t i = 0; i < told; ++i) {
      const bool leaves = i < leaving.size();
      retell_strategy(leaves ? leaving[i] : arriving[i - leaving.size()], leaves);
    }
    throw;
  }
}

// What did not happen after all. A policy that throws again is as it is.
void Moves::retell_strategy(BlockId id, bool on_card) noexcept {
  try {
    if (on_card) {
      strategy_.arrived(id);
    } else {
      strategy_.left(id);
    }
  } catch (...) {
    ++failed_;
  }
}

void Moves::submit(Blocks victims, Blocks arriving, Left left_for, Brought brought_for) {
  Job job;
  job.number = ++last_job_;
  job.timed = notes_.kept() != 0;
  for (const BlockId id : victims) {
    Block& block = table_[id];
    block.leaving = block.leaves();
    block.left_for = block.released ? Left::plan : left_for;
    job.departures.push_back({&memory_of(block).link(), block.range, block.home, block.leaving,
                              block.fences(device_->streams())});
    if (settings_.profiled) job.departures.back().name = "leave " + table_.name_of(block);
  }
  for (const BlockId id : arriving) {
    Block& block = table_[id];
    block.arriving = block.arrives();
    block.brought_for = brought_for;
    job.arrivals.push_back({&memory_of(block).link(), block.range, block.home, block.arriving,
                            block.exposed ? &memory_of(block) : nullptr});
    if (settings_.profiled) job.arrivals.back().name = "bring " + table_.name_of(block);
  }
  tell_strategy(victims, arriving);
  for (const BlockId id : victims) {
    const auto change = table_.change(id);
    table_[id].error = nullptr;
    table_[id].state = State::leaving;
  }
  for (const BlockId id : arriving) {
    const auto change = table_.change(id);
    table_[id].error = nullptr;
    table_[id].state = State::arriving;
    table_[id].released = false;
  }
  peak_resident_ = std::max(peak_resident_, table_.sums().committed);
  under_way_[job.number] = {std::move(victims), std::move(arriving), notes_.kept(), notes_.now()};
  job.done = [this, number = job.number](Outcome& outcome) { finished_(number, outcome); };
  mover_.submit(std::move(job));
}

void Moves::left_card(Block& block) {
  block.state = State::host;
  block.dirty = false;
  block.arrival = nullptr;
  block.uses.clear();
  table_.count(
      block, [&](Counts& counts) { counts.went(block.left_for, block.leaving, block.range.size); });
  if (block.accessed_by) try_to_expose(block);
}

void Moves::settle(std::uint64_t job, Outcome& outcome) {
  // Let go under the lock too: from then on its blocks alone hold the failure.
  const std::exception_ptr error = std::move(outcome.error);
  settle(under_way_.at(job), outcome, error);
  under_way_.erase(job);
  if (!error) return;
  ++failed_;
  notes_.failure(error);
  // They counted on room that this one did not make.
  for (const auto number : mover_.take_back()) {
    settle(under_way_.at(number), {}, nullptr);
    under_way_.erase(number);
  }
}

// The moves that did not happen leave their blocks where they were.
void Moves::settle(const Asked& moves, const Outcome& outcome, const std::exception_ptr& error) {
  const bool noted = moves.journal == notes_.kept();
  for (std::size_t i = 0; i < moves.victims.size(); ++i) {
    Block& block = table_[moves.victims[i]];
    const BlockTable::Change change(table_, block);
    if (i < outcome.left) {
      block.departure = outcome.freed[i];
      if (noted) notes_.move(block, moves.submitted, outcome, i, outcome.freed[i]);
      left_card(block);
    } else {
      block.state = State::resident;
      block.error = error;
      retell_strategy(moves.victims[i], true);
      if (!noted) notes_.correct_start(block, true);
    }
  }
  for (std::size_t i = 0; i < moves.arriving.size(); ++i) {
    Block& block = table_[moves.arriving[i]];
    const BlockTable::Change change(table_, block);
    if (i < outcome.concealed) block.exposed = false;
    if (i < outcome.arrivals.size()) {
      block.state = State::resident;
      block.arrival = outcome.arrivals[i];
      block.ordered.clear();
      // A write reported while it was on its way has set dirty already.
      block.dirty = block.dirty || block.arriving != Arrive::duplicate;
      table_.count(block, [&](Counts& counts) {
        counts.came(block.brought_for, block.arriving, block.range.size);
      });
      if (noted)
        notes_.move(block, moves.submitted, outcome, outcome.left + i, outcome.arrivals[i]);
    } else {
      block.state = State::host;
      block.dirty = false;
      block.error = error;
      retell_strategy(moves.arriving[i], false);
      if (!noted) notes_.correct_start(block, false);
    }
  }
}

void Moves::expose(Block& block) {
  if (block.exposed) return;
  memory_of(block).expose(block.range);
  block.exposed = true;
}

void Moves::try_to_expose(Block& block) noexcept {
  try {
    expose(block);
  } catch (const Error&) {
    ++failed_;
  }
}

void Moves::conceal_idle(Block& block) {
  if (!block.exposed || block.state != State::host || block.leases > 0) return;
  memory_of(block).conceal(block.range);
  block.exposed = false;
}

}  // namespace vramx
