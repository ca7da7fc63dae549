// Leases: what they wait for, what they fetch, and what they fetch ahead.
#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.hpp"
#include "base/host_clock.hpp"
#include "device/profiler.hpp"
#include "residency/refusals.hpp"
#include "residency/residency.hpp"

namespace vramx {

using State = Block::State;
using Preference = Block::Preference;

namespace {

// A stream that has used a block waits for it no more.
bool may_stall(const BlockTable& table, const Blocks& blocks, Stream stream) {
  return std::any_of(blocks.begin(), blocks.end(),
                     [&](BlockId id) { return !table[id].resident() || table[id].waits(stream); });
}

// Whether there is room, or could be made at once. What is idle on the card can leave the host too.
bool has_room(const Sums& sums, const PerPlace<Bytes>& need, const PerPlace<Bytes>& room) {
  const Bytes on_card = need[Place::card] + sums.held[Place::card];
  if (on_card > room[Place::card] + sums.idle[Place::card]) return false;
  if (need[Place::host] == 0) return true;
  const Bytes on_host = need[Place::host] + sums.held[Place::host];
  return on_host <= room[Place::host] + sums.idle[Place::card] + sums.idle[Place::host];
}

}  // namespace

void Residency::wait(Lock& lock, const Poll& poll, MaybeGroup group) {
  const double began = host_seconds();
  const bool changed = changed_.wait(lock);
  const double waited = host_seconds() - began;
  stall_seconds_ += waited;
  if (group && !device_->facts().virtual_clock) table_.group(*group).stall_seconds += waited;
  if (!changed && poll) {
    lock.unlock();
    struct Relock {
      Lock& lock;
      ~Relock() { lock.lock(); }
    } const relock{lock};
    poll();
  }
}

void Residency::settle(Lock& lock, const Blocks& blocks, const Poll& poll, MaybeGroup group) {
  const auto settled = [&](BlockId id) { return table_[id].settled(); };
  while (!std::all_of(blocks.begin(), blocks.end(), settled)) wait(lock, poll, group);
}

// Not those that other threads decide meanwhile: under a program that runs there is always one.
void Residency::finish_moves(Lock& lock, std::uint64_t last, const Poll& poll) {
  while (!moves_->over(last)) wait(lock, poll);
}

bool Residency::acquire(GroupId group, Stream stream, const Poll& poll) {
  Lock lock = locked();
  check_open();
  table_.check(group);
  const Blocks& blocks = table_.group(group).blocks;
  const bool told = strategy_->wants_times() || notes_;
  const bool may_wait =
      (told || device_->facts().virtual_clock) && may_stall(table_, blocks, stream);
  const Fence asked = told || may_wait ? clock_or_nothing(device_->streams(), stream) : nullptr;
  if (settings_.profiled) begin_profiler_range(table_.group(group).name);
  bool on_card = false;
  try {
    check_arrivals(lock, blocks, poll);
    on_card = start(lock, {.blocks = blocks, .stream = stream, .group = group}, poll);
  } catch (...) {
    if (settings_.profiled) end_profiler_range();
    notes_.failure(std::current_exception());
    throw;
  }
  in_use_.push_back(group);
  ++table_.group(group).uses;
  if (!asked) return on_card;
  // What waits for nothing begins as it is asked for: the program's own time here is no stall.
  const Fence began =
      may_wait || strategy_->held_up() ? clock_or_nothing(device_->streams(), stream) : asked;
  if (device_->facts().virtual_clock && began) {
    table_.group(group).stall_seconds += device_->streams().seconds(asked, began);
  }
  if (notes_) notes_.use(group, Event::Kind::stalled, stream, asked, began);
  if (strategy_->wants_times()) strategy_->began(in_use_, asked, began);
  return on_card;
}

void Residency::release(GroupId group, Stream stream) {
  const Lock lock = locked();
  if (settings_.profiled) end_profiler_range();
  if (notes_)
    notes_.use(group, Event::Kind::released, stream, nullptr,
               clock_or_nothing(device_->streams(), stream));
  const auto it = std::find(in_use_.rbegin(), in_use_.rend(), group);
  if (it != in_use_.rend()) in_use_.erase(std::next(it).base());
  end(table_.group(group).blocks, stream, true);
}

bool Residency::take(const Blocks& blocks, Stream stream, bool held_by_thread, const Poll& poll) {
  Lock lock = locked();
  check_open();
  check_arrivals(lock, blocks, poll);
  return start(lock, {.blocks = blocks, .stream = stream, .held_by_thread = held_by_thread}, poll);
}

void Residency::place(const Blocks& blocks, Stream stream, const Poll& poll) {
  Lock lock = locked();
  check_open();
  start(lock, {.blocks = blocks, .stream = stream, .held_by_thread = false}, poll);
  for (const BlockId id : blocks) {
    const auto change = table_.change(id);
    table_[id].dead = false;
    if (table_[id].committed()) table_[id].written(Place::card);
  }
  unlease(blocks, false);
  changed_.notify();
}

void Residency::give(const Blocks& blocks, Stream stream, bool held_by_thread) {
  const Lock lock = locked();
  end(blocks, stream, held_by_thread);
}

void Residency::end(const Blocks& blocks, Stream stream, bool held_by_thread) {
  // A mark costs the stream a microsecond or two. Where nothing is about to leave the card it is
  // left until something is: it tells a later end then, and that is right too.
  Fence fence;
  const bool at_rest = table_.sums().away == 0 || strategy_->all_fits();
  if (!at_rest && !strategy_->keeps(blocks)) {
    try {
      fence = device_->streams().mark(stream);
    } catch (...) {
      unlease(blocks, held_by_thread);
      throw;
    }
  }
  for (const BlockId id : blocks) table_[id].used(stream, fence);
  unlease(blocks, held_by_thread);
  changed_.notify();
  find_damage();
  tell_damage(blocks);
}

void Residency::lease(const Blocks& blocks, bool held_by_thread) {
  for (const BlockId id : blocks) {
    const auto change = table_.change(id);
    ++table_[id].leases;
  }
  if (held_by_thread) holders_.add();
}

void Residency::unlease(const Blocks& blocks, bool held_by_thread) {
  for (const BlockId id : blocks) {
    const auto change = table_.change(id);
    --table_[id].leases;
  }
  if (held_by_thread) holders_.remove();
}

// Room is there, or could be made at once; or will never be, and the use goes over the link. All or
// nothing: a thread that waits here holds no part of what it asks for, and if it holds other leases
// it does not wait for other threads, so that no two threads wait for each other. What another
// thread waits for beside vramx is not known, so the wait for it has an end.
void Residency::wait_for_room(Lock& lock, const Lease& asked, const Poll& poll) {
  const Blocks& blocks = asked.blocks;
  for (;;) {
    PerPlace<Bytes> need{};  // with what of it is idle there now
    bool comes_to_rest = false;
    for (const BlockId id : blocks) {
      const Block& block = table_[id];
      if (block.state == State::evicting || block.state == State::held) {
        comes_to_rest = true;
      } else if (block.leases == 0 && block.settled()) {
        const bool in_place = block.away() && block.preference == Preference::host;
        const Place to = in_place ? Place::host : Place::card;
        for (Place place = to; place <= block.at; place = below(place)) {
          if (place < block.at || block.may_fall(place)) need[place] += block.range.size;
        }
        if (block.resident() && block.lowest > Place::host) need[Place::host] += block.range.size;
      }
    }
    if (!comes_to_rest && has_room(table_.sums(), need, moves_->room())) return;
    const bool in_place = read_in_place(blocks, table_, *device_);
    if (!comes_to_rest && !moving() && !holders_.may_wait(in_place)) {
      if (in_place) return;
      out_of_memory(blocks, table_, *device_, moves_->room(), in_use_);
    }
    wait(lock, poll, asked.group);
    check_open();
  }
}

bool Residency::start(Lock& lock, const Lease& asked, const Poll& poll) {
  wait_for_room(lock, asked, poll);
  if (asked.group) strategy_->used(*asked.group, asked.stream);
  for (;;) {
    lease(asked.blocks, asked.held_by_thread);
    try {
      const auto on_card = try_start(lock, asked, poll);
      if (on_card) return *on_card;
    } catch (...) {
      unlease(asked.blocks, asked.held_by_thread);
      pump(lock);
      changed_.notify();
      throw;
    }
    // Another's failure took down what this one waited for: once more.
    unlease(asked.blocks, asked.held_by_thread);
    wait_for_room(lock, asked, poll);
  }
}

// Whether all is on the card now; none where some was not even fetched.
std::optional<bool> Residency::try_start(Lock& lock, const Lease& asked, const Poll& poll) {
  const auto& [blocks, stream, held_by_thread, group] = asked;
  Blocks over_link;
  Blocks absent;
  for (const BlockId id : blocks) {
    Block& block = table_[id];
    const bool shared = block.leases > 1;
    // A use in the midst of another's lease, outside the learned order, is a part of that one.
    const bool part = shared && !group && block.state != State::fetching;
    if (!part) table_.count(block, [&](Counts& counts) { counts.used(block.committed()); });
    if (block.committed()) {
      strategy_->leased(id);
      continue;
    }
    // Under another lease it is being used over the link, and stays there.
    const bool in_place = block.preference == Preference::host || shared;
    (in_place ? over_link : absent).push_back(id);
  }
  if (!absent.empty()) strategy_->missed();
  const auto jobs_before = moves_->last_job();
  if (!table_.packed_unwanted().empty()) moves_->drop_unwanted();
  const std::size_t fetched = moves_->fetch(
      absent, FetchCause::use, [this](BlockId other) { return table_[other].evictable(); });
  for (std::size_t i = 0; i < absent.size(); ++i) {
    if (i < fetched) {
      strategy_->leased(absent[i]);
    } else {
      over_link.push_back(absent[i]);
    }
  }
  Blocks deeper;  // than the card reaches
  std::ranges::copy_if(over_link, std::back_inserter(deeper),
                       [this](BlockId id) { return table_[id].at > Place::host; });
  const std::size_t raised = moves_->fetch(
      deeper, FetchCause::use, [this](BlockId other) { return table_[other].evictable(); },
      Place::host);
  if (raised < deeper.size() || !read_in_place(over_link, table_, *device_)) {
    out_of_memory(blocks, table_, *device_, moves_->room(), in_use_);
  }
  if (group) {
    const Ahead next = strategy_->ahead();
    moves_->fetch(next.wanted, next.why, next.evictable);
  }
  if (moves_->last_job() != jobs_before) pump(lock);
  settle(lock, blocks, poll, group);
  bool all_came = true;
  bool all_on_card = true;
  for (const BlockId id : blocks) {
    Block& block = table_[id];
    if (block.resident()) {
      if (!block.waits(stream)) continue;
      // Asking first whether it is there already would take the driver longer.
      device_->streams().order(stream, block.arrival);
      block.ordered.push_back(stream);
    } else if (std::find(over_link.begin(), over_link.end(), id) != over_link.end()) {
      moves_->use_over_link(block, stream);
      all_on_card = false;
    } else if (block.error) {
      std::rethrow_exception(std::exchange(block.error, nullptr));
    } else {
      all_came = false;
    }
  }
  return all_came ? std::optional(all_on_card) : std::nullopt;
}

}  // namespace vramx
