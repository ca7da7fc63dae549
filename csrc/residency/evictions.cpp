// What leaves because the program says so, what it asks for ahead, and work on host copies.
#include <algorithm>
#include <utility>

#include "residency/residency.hpp"

namespace vramx {

using State = Block::State;

void Residency::pump(Lock& lock) {
  lock.unlock();
  moves_->pump();
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
  moves_->submit(victims, {}, why, Brought::use);
  const auto mine = moves_->last_job();
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
    settle(lock, blocks, poll);
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
  settle(lock, blocks, poll);
  check_not_leased(blocks, "evict");
  evict(lock, blocks, Left::evict, poll);
  for (const BlockId id : blocks) {
    if (!table_[id].accessed_by) moves_->conceal_idle(table_[id]);
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
  for (const BlockId id : blocks) moves_->conceal_idle(table_[id]);
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
    if (table_[id].accessed_by) moves_->try_to_expose(table_[id]);
  }
}

void Residency::prefetch(const Blocks& blocks) {
  Lock lock = locked();
  check_open();
  Blocks absent;
  for (const BlockId id : blocks) {
    const Block& block = table_[id];
    const bool stays = block.leases > 0 || block.preference == Block::Preference::host;
    if (block.state == State::host && !stays) absent.push_back(id);
  }
  const auto asked_for = [&](BlockId id) {
    return std::find(blocks.begin(), blocks.end(), id) != blocks.end();
  };
  absent.resize(moves_->bring(absent, Brought::prefetch, [&](BlockId other) {
    return table_[other].may_leave() && !asked_for(other);
  }));
  pump(lock);
  for (const BlockId id : absent) {
    if (table_[id].error) std::rethrow_exception(std::exchange(table_[id].error, nullptr));
  }
}

}  // namespace vramx
