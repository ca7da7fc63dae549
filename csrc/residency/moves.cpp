// Moves: choosing who leaves, handing jobs to the mover, and taking note of how they ended.
#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "residency/residency.hpp"

namespace vramx {

using State = Block::State;
using Preference = Block::Preference;

// Adds to `victims` until they make room for `size` more; adds none where they cannot.
bool Residency::choose_victims(Bytes size, const MayLeave& may_leave, Blocks& victims) const {
  const std::size_t before = victims.size();
  Bytes held = table_.sums().committed;
  for (const BlockId id : victims) held -= table_[id].range.size;
  while (held + size > budget_) {
    const auto chosen = [&](BlockId id) {
      return std::find(victims.begin(), victims.end(), id) != victims.end();
    };
    const MayLeave if_must = [&](BlockId id) { return may_leave(id) && !chosen(id); };
    const MayLeave freely = [&](BlockId id) {
      return table_[id].preference != Preference::device && if_must(id);
    };
    // What nobody needs leaves first, and what the plan lets go; then what leaves without a copy,
    // since a write-back and the way back in cost the link twice.
    std::optional<BlockId> victim;
    if (table_.sums().dead_on_card > 0) {
      victim = strategy_->victim([&](BlockId id) { return table_[id].dead && if_must(id); });
    }
    if (!victim) victim = strategy_->let_go(if_must);
    if (!victim) {
      victim = strategy_->victim(
          [&](BlockId id) { return table_[id].leaves() == Leave::drop && freely(id); });
    }
    if (!victim) victim = strategy_->victim(freely);
    if (!victim) victim = strategy_->victim(if_must);
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

// Puts as many of `wanted` under way as room can be made for, in order; returns how many.
// Neighbours in one job move in one request, where the first is there only when the last one is: so
// no more than a full block's bytes.
std::size_t Residency::bring(const Blocks& wanted, Brought why, const MayLeave& may_leave) {
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
void Residency::tell_policy(const Blocks& leaving, const Blocks& arriving) {
  std::size_t told = 0;
  try {
    for (const BlockId id : leaving) {
      strategy_->left(id);
      ++told;
    }
    for (const BlockId id : arriving) {
      strategy_->arrived(id);
      ++told;
    }
  } catch (...) {
    for (std::size_t i = 0; i < told; ++i) {
      const bool leaves = i < leaving.size();
      retell_policy(leaves ? leaving[i] : arriving[i - leaving.size()], leaves);
    }
    throw;
  }
}

// What did not happen after all. A policy that throws again is as it is.
void Residency::retell_policy(BlockId id, bool on_card) noexcept {
  try {
    if (on_card) {
      strategy_->arrived(id);
    } else {
      strategy_->left(id);
    }
  } catch (...) {
    ++stats_.failed_moves;
  }
}

void Residency::submit(Blocks victims, Blocks arriving, Left left_for, Brought brought_for) {
  Job job;
  job.number = ++last_job_;
  job.timed = journal_ != nullptr;
  const double now = job.timed ? journal_->now() : 0;
  for (const BlockId id : victims) {
    Block& block = table_[id];
    block.leaving = block.leaves();
    block.left_for = block.released ? Left::plan : left_for;
    job.departures.push_back({block.range, block.home, block.leaving, block.fences(*device_)});
    if (settings_.profiled) job.departures.back().name = "leave " + table_.name_of(block);
  }
  for (const BlockId id : arriving) {
    Block& block = table_[id];
    block.arriving = block.arrives();
    block.brought_for = brought_for;
    job.arrivals.push_back({block.range, block.home, block.arriving, block.exposed});
    if (settings_.profiled) job.arrivals.back().name = "bring " + table_.name_of(block);
  }
  tell_policy(victims, arriving);
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
  stats_.peak_resident = std::max(stats_.peak_resident, table_.sums().committed);
  under_way_[job.number] = {std::move(victims), std::move(arriving), job.timed ? journals_ : 0,
                            now};
  job.done = [this, number = job.number](Outcome& outcome) { finished(number, outcome); };
  mover_->submit(std::move(job));
}

void Residency::left_card(Block& block) {
  block.state = State::host;
  block.dirty = false;
  block.arrival = nullptr;
  block.uses.clear();
  table_.count(
      block, [&](Counts& counts) { counts.went(block.left_for, block.leaving, block.range.size); });
  if (block.accessed_by) try_to_expose(block);
}

void Residency::finished(std::uint64_t job, Outcome& outcome) {
  {
    const Lock lock = locked();
    // Let go under the lock too: from then on its blocks alone hold the failure.
    const std::exception_ptr error = std::move(outcome.error);
    settle_moves(under_way_.at(job), outcome, error);
    under_way_.erase(job);
    if (error) {
      ++stats_.failed_moves;
      if (journal_) note_failure(error);
      // They counted on room that this one did not make.
      for (const auto number : mover_->take_back()) {
        settle_moves(under_way_.at(number), {}, nullptr);
        under_way_.erase(number);
      }
    }
  }
  changed_.notify_all();
}

// The moves that did not happen leave their blocks where they were.
void Residency::settle_moves(const Moves& moves, const Outcome& outcome,
                             const std::exception_ptr& error) {
  const bool noted = journal_ && moves.journal == journals_;
  for (std::size_t i = 0; i < moves.victims.size(); ++i) {
    Block& block = table_[moves.victims[i]];
    const BlockTable::Change change(table_, block);
    if (i < outcome.left) {
      block.departure = outcome.freed[i];
      if (noted) note_move(block, moves, outcome, i, outcome.freed[i]);
      left_card(block);
    } else {
      block.state = State::resident;
      block.error = error;
      retell_policy(moves.victims[i], true);
      if (journal_ && !noted) journal_->correct_start(block.serial, true);
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
      if (noted) note_move(block, moves, outcome, outcome.left + i, outcome.arrivals[i]);
    } else {
      block.state = State::host;
      block.dirty = false;
      block.error = error;
      retell_policy(moves.arriving[i], false);
      if (journal_ && !noted) journal_->correct_start(block.serial, false);
    }
  }
}

void Residency::pump(Lock& lock) {
  lock.unlock();
  mover_->pump();
  lock.lock();
}

void Residency::evict(Lock& lock, const Blocks& blocks, Left why, const Poll& poll) {
  Blocks victims;
  for (const BlockId id : blocks) {
    if (table_[id].may_leave()) victims.push_back(id);
  }
  if (victims.empty()) return;
  for (const BlockId id : victims) {
    const auto change = table_.change(id);
    table_[id].released = false;  // it leaves for good, whatever was planned
  }
  submit(victims, {}, why, Brought::use);
  const auto mine = last_job_;
  pump(lock);
  finish_moves(lock, mine, poll);
  for (const BlockId id : victims) {
    if (table_[id].state == State::resident && table_[id].error) {
      std::rethrow_exception(std::exchange(table_[id].error, nullptr));
    }
  }
}

// Until all of the blocks are on the host at one moment: while one eviction waits, others may
// bring.
void Residency::take_off(Lock& lock, const Blocks& blocks, const char* action, const Poll& poll) {
  for (;;) {
    settle_transitions(lock, blocks, poll);
    check_not_leased(blocks, action);
    if (std::none_of(blocks.begin(), blocks.end(),
                     [this](BlockId id) { return table_[id].may_leave(); })) {
      return;
    }
    evict(lock, blocks, Left::host, poll);
  }
}

void Residency::evict(const Blocks& blocks, const Poll& poll) {
  Lock lock = locked();
  check_open();
  settle_transitions(lock, blocks, poll);
  check_not_leased(blocks, "evict");
  evict(lock, blocks, Left::evict, poll);
  for (const BlockId id : blocks) {
    if (!table_[id].accessed_by) conceal_idle(table_[id]);
  }
}

void Residency::on_host(const Blocks& blocks, const std::function<void()>& work, const Poll& poll) {
  const auto set_state = [&](State state) {
    for (const BlockId id : blocks) {
      const auto change = table_.change(id);
      table_[id].state = state;
    }
  };
  Lock lock = locked();
  check_open();
  take_off(lock, blocks, "reach host copies", poll);
  for (const BlockId id : blocks) conceal_idle(table_[id]);
  set_state(State::held);
  ++works_on_host_;
  lock.unlock();
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  --works_on_host_;
  set_state(State::host);
  changed_.notify_all();
  if (error) std::rethrow_exception(error);
  for (const BlockId id : blocks) {
    // The work is done and its bytes are there: what fails now is the advice alone.
    if (table_[id].accessed_by) try_to_expose(table_[id]);
  }
}

void Residency::prefetch(const Blocks& blocks) {
  Lock lock = locked();
  check_open();
  Blocks absent;
  for (const BlockId id : blocks) {
    const Block& block = table_[id];
    const bool stays = block.leases > 0 || block.preference == Preference::host;
    if (block.state == State::host && !stays) absent.push_back(id);
  }
  const auto asked_for = [&](BlockId id) {
    return std::find(blocks.begin(), blocks.end(), id) != blocks.end();
  };
  absent.resize(bring(absent, Brought::prefetch, [&](BlockId other) {
    return table_[other].may_leave() && !asked_for(other);
  }));
  pump(lock);
  for (const BlockId id : absent) {
    if (table_[id].error) std::rethrow_exception(std::exchange(table_[id].error, nullptr));
  }
}

}  // namespace vramx
