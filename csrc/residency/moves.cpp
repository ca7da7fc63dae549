// Moves: choosing who leaves, handing jobs to the mover, and taking note of how they ended.
#include <algorithm>

#include "base/error.hpp"
#include "residency/block.hpp"

namespace vramx {

using State = Residency::Block::State;
using Preference = Residency::Block::Preference;

bool Residency::may_leave(BlockId id) const {
  return blocks_[id].state == State::resident && blocks_[id].leases == 0;
}

bool Residency::choose_victims(Bytes size, const MayLeave& may_leave, Blocks& victims) const {
  Bytes held = committed_;
  while (held + size > settings_.budget) {
    const auto chosen = [&](BlockId id) {
      return std::find(victims.begin(), victims.end(), id) != victims.end();
    };
    const MayLeave if_must = [&](BlockId id) { return may_leave(id) && !chosen(id); };
    const MayLeave freely = [&](BlockId id) {
      return blocks_[id].preference != Preference::device && if_must(id);
    };
    // What nobody needs leaves before what somebody does.
    std::optional<BlockId> victim;
    if (dead_on_card_ > 0) {
      victim = policy_->victim([&](BlockId id) { return blocks_[id].dead && if_must(id); });
    }
    if (!victim) victim = policy_->victim(freely);
    if (!victim) victim = policy_->victim(if_must);
    if (!victim) return false;
    if (*victim >= blocks_.size() || !if_must(*victim)) {
      throw Error("the policy chose block " + std::to_string(*victim) +
                  ", which may not leave; victim(may_leave) returns a block for which "
                  "may_leave(block) holds, or None");
    }
    victims.push_back(*victim);
    held -= blocks_[*victim].range.size;
  }
  return true;
}

bool Residency::bring(BlockId id, const MayLeave& may_leave) {
  Blocks victims;
  if (!choose_victims(blocks_[id].range.size, may_leave, victims)) return false;
  submit(std::move(victims), id);
  return true;
}

void Residency::submit(Blocks victims, std::optional<BlockId> arriving) {
  Job job;
  for (const BlockId id : victims) {
    Block& block = blocks_[id];
    policy_->left(id);
    block.leaving = block.leaves();
    job.departures.push_back({block.range, block.leaving, block.fences()});
    const Change change(*this, block);
    block.state = State::leaving;
  }
  if (arriving) {
    Block& block = blocks_[*arriving];
    block.error = nullptr;
    job.arrival = Arrival{block.range, block.arrives(), block.exposed};
    policy_->arrived(*arriving);
    const Change change(*this, block);
    block.state = State::arriving;
  }
  job.done = [this, victims = std::move(victims), arriving](const Outcome& outcome) {
    finished(victims, arriving, outcome);
  };
  ++jobs_;
  mover_->submit(std::move(job));
}

void Residency::finished(const Blocks& victims, std::optional<BlockId> arriving,
                         const Outcome& outcome) {
  {
    const Lock lock(mutex_);
    for (std::size_t i = 0; i < victims.size(); ++i) {
      Block& block = blocks_[victims[i]];
      const Change change(*this, block);
      if (i >= outcome.left) {
        block.state = State::resident;
        block.error = outcome.error;
        policy_->arrived(victims[i]);
        continue;
      }
      block.state = State::host;
      block.dirty = false;
      block.arrival = nullptr;
      block.uses.clear();
      ++stats_.evictions;
      (block.leaving == Leave::drop         ? stats_.dropped
       : block.leaving == Leave::write_back ? stats_.moved_out
                                            : stats_.discarded) += block.range.size;
    }
    if (arriving) {
      Block& block = blocks_[*arriving];
      const Change change(*this, block);
      if (outcome.concealed) block.exposed = false;
      if (outcome.error) {
        block.state = State::host;
        block.error = outcome.error;
        policy_->left(*arriving);
      } else {
        const Arrive how = block.arrives();
        block.state = State::resident;
        block.arrival = outcome.arrival;
        // A write reported while it was on its way has set dirty already.
        block.dirty = block.dirty || how != Arrive::duplicate;
        if (how != Arrive::empty) stats_.moved_in += block.range.size;
      }
    }
    if (outcome.error) ++stats_.failed_moves;
    --jobs_;
  }
  changed_.notify_all();
}

void Residency::pump(Lock& lock) {
  lock.unlock();
  mover_->pump();
  lock.lock();
}

void Residency::evict(Lock& lock, const Blocks& blocks, const Poll& poll) {
  Blocks victims;
  for (const BlockId id : blocks) {
    if (may_leave(id)) victims.push_back(id);
  }
  if (victims.empty()) return;
  submit(victims, std::nullopt);
  pump(lock);
  settle_transitions(lock, victims, poll);
  for (const BlockId id : victims) {
    if (blocks_[id].state == State::resident && blocks_[id].error) {
      std::rethrow_exception(std::exchange(blocks_[id].error, nullptr));
    }
  }
}

void Residency::evict(const Blocks& blocks, const Poll& poll) {
  Lock lock(mutex_);
  check_usable();
  settle_transitions(lock, blocks, poll);
  check_not_leased(blocks, "evict");
  evict(lock, blocks, poll);
  for (const BlockId id : blocks) conceal(blocks_[id]);
}

void Residency::prefetch(const Blocks& blocks) {
  Lock lock(mutex_);
  check_usable();
  const auto wanted = [&](BlockId id) {
    return std::find(blocks.begin(), blocks.end(), id) != blocks.end();
  };
  for (const BlockId id : blocks) {
    Block& block = blocks_[id];
    if (block.state != State::host || block.leases > 0 || block.preference == Preference::host) {
      continue;
    }
    if (!bring(id, [&](BlockId other) { return may_leave(other) && !wanted(other); })) break;
  }
  pump(lock);
  for (const BlockId id : blocks) {
    if (blocks_[id].state == State::host && blocks_[id].error) {
      std::rethrow_exception(std::exchange(blocks_[id].error, nullptr));
    }
  }
}

}  // namespace vramx
