// What leaves because the program says so, what it asks for ahead, and work on host copies.
#include <algorithm>
#include <iterator>
#include <utility>

#include "residency/refusals.hpp"
#include "residency/residency.hpp"

namespace vramx {

using State = Block::State;

namespace {

Falls falls_of(const BlockTable& table, const Blocks& blocks) {
  Falls falls;
  for (const BlockId id : blocks) {
    if (table[id].evictable()) falls.push_back({id, Place::card});
  }
  return falls;
}

}  // namespace

void Residency::pump(Lock& lock) {
  lock.unlock();
  moves_->pump();
  lock.lock();
}

void Residency::evict(Lock& lock, const Falls& falls, EvictCause why, const Poll& poll) {
  if (falls.empty()) return;
  find_damage();  // which is not written back
  for (const Fall& fall : falls) {
    const auto change = table_.change(fall.id);
    table_[fall.id].released = false;  // it leaves for good, whatever was planned
  }
  moves_->submit(falls, {}, Place::card, why, FetchCause::use);
  const auto mine = moves_->last_job();
  pump(lock);
  finish_moves(lock, mine, poll);
  for (const Fall& fall : falls) {
    Block& block = table_[fall.id];
    if (block.resident() && block.error) {
      std::rethrow_exception(std::exchange(block.error, nullptr));
    }
  }
}

// Until all of the blocks are on the host at one moment: while one move waits, others may take
// them away again.
void Residency::put_on_host(Lock& lock, const Blocks& blocks, const char* action,
                            const Poll& poll) {
  for (;;) {
    settle(lock, blocks, poll);
    check_not_leased(blocks, action, table_);
    Blocks deeper;
    std::ranges::copy_if(blocks, std::back_inserter(deeper),
                         [this](BlockId id) { return table_[id].at > Place::host; });
    const Falls falls = falls_of(table_, blocks);
    if (falls.empty() && deeper.empty()) return;
    evict(lock, falls, EvictCause::host, poll);
    if (!deeper.empty()) raise(lock, deeper, poll);
  }
}

// Rises to the host, which has to have the room.
void Residency::raise(Lock& lock, const Blocks& blocks, const Poll& poll) {
  const auto evictable = [this](BlockId id) { return table_[id].evictable(); };
  const std::size_t raised = moves_->fetch(blocks, FetchCause::use, evictable, Place::host);
  if (raised < blocks.size() && !moving()) {
    out_of_memory(blocks, table_, *device_, moves_->room(), in_use_);
  }
  const auto mine = moves_->last_job();
  pump(lock);
  finish_moves(lock, mine, poll);
  for (const BlockId id : blocks) {
    if (table_[id].error) std::rethrow_exception(std::exchange(table_[id].error, nullptr));
  }
}

void Residency::evict(const Blocks& blocks, const Poll& poll) {
  Lock lock = locked();
  check_open();
  settle(lock, blocks, poll);
  check_not_leased(blocks, "evict", table_);
  evict(lock, falls_of(table_, blocks), EvictCause::evict, poll);
  for (const BlockId id : blocks) {
    if (!table_[id].accessed_by) moves_->unmap_idle(table_[id]);
  }
}

/// Does `work` without the lock while nothing else reaches blocks that are on the host. Returns
/// what it threw.
std::exception_ptr Residency::hold_on_host(Lock& lock, const Blocks& blocks,
                                           const std::function<void()>& work) {
  const auto set_state = [&](State state) {
    for (const BlockId id : blocks) {
      const auto change = table_.change(id);
      table_[id].state = state;
    }
  };
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
  set_state(State::at_rest);
  return error;
}

void Residency::on_host(const Blocks& blocks, const std::function<void()>& work, const Poll& poll,
                        HostWork kind) {
  Lock lock = locked();
  check_open();
  put_on_host(lock, blocks, "reach host copies", poll);
  std::vector<Fence> uses;  // of what stays where they use it
  for (const BlockId id : blocks) {
    moves_->unmap_idle(table_[id]);
    if (!table_[id].confined) continue;
    const auto mine = table_[id].fences(device_->streams());
    uses.insert(uses.end(), mine.begin(), mine.end());
  }
  const std::exception_ptr error = hold_on_host(lock, blocks, [&] {
    for (const Fence& use : uses) device_->streams().wait(use);
    work();
  });
  for (const BlockId id : blocks) {
    if (kind == HostWork::writes && !table_[id].confined) moves_->written(table_[id], Place::host);
  }
  changed_.notify();
  if (error) std::rethrow_exception(error);
  for (const BlockId id : blocks) {
    // The work is done and its bytes are there: what fails now is the advice alone.
    if (table_[id].accessed_by) moves_->try_map_host(table_[id]);
  }
}

void Residency::prefetch(const Blocks& blocks) {
  Lock lock = locked();
  check_open();
  Blocks absent;
  for (const BlockId id : blocks) {
    const Block& block = table_[id];
    const bool in_place = block.leases > 0 || block.preference == Block::Preference::host;
    if (block.away() && !in_place) absent.push_back(id);
  }
  const auto asked_for = [&](BlockId id) {
    return std::find(blocks.begin(), blocks.end(), id) != blocks.end();
  };
  absent.resize(moves_->fetch(absent, FetchCause::prefetch, [&](BlockId other) {
    return table_[other].evictable() && !asked_for(other);
  }));
  pump(lock);
  for (const BlockId id : absent) {
    if (table_[id].error) std::rethrow_exception(std::exchange(table_[id].error, nullptr));
  }
}

}  // namespace vramx
