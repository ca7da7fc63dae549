// What the program may change about its blocks, the budget, and the end.
#include <algorithm>
#include <iterator>

#include "base/error.hpp"
#include "base/fork.hpp"
#include "residency/refusals.hpp"
#include "residency/residency.hpp"

namespace vramx {

using Preference = Block::Preference;

void Residency::advise(const Blocks& all, Advice advice, const Poll& poll) {
  Lock lock = locked();
  check_open();
  settle(lock, all, poll);
  Blocks blocks;
  std::ranges::copy_if(all, std::back_inserter(blocks),
                       [this](BlockId id) { return !table_[id].confined; });
  const bool to_host = advice == Advice::preferred_host;
  const bool wants_host = to_host || advice == Advice::accessed_by;
  if ((wants_host || advice == Advice::unset_read_mostly) && blocks.empty() && !all.empty()) {
    throw BadConfig(device_->facts().name +
                    " has no concurrent managed access, so activations stay on it and cannot be "
                    "told to be used on the host; copy them to the CPU, or let go of them");
  }
  if (wants_host && !read_in_place(blocks, table_, *device_)) {
    throw BadConfig(device_->facts().name +
                    " does not read this host memory over the link, so memory cannot be told to be "
                    "used there; use session.evict or a smaller budget instead");
  }
  // What is on the card came as the old advice had it; it comes back as the new one has it.
  if (to_host || advice == Advice::unset_read_mostly) {
    put_on_host(lock, blocks, "change how memory is kept", poll);
  }
  for (const BlockId id : blocks) {
    Block& block = table_[id];
    const BlockTable::Change change(table_, block);
    switch (advice) {
      case Advice::read_mostly:
        block.read_mostly = true;
        break;
      case Advice::unset_read_mostly:
        // A host copy that the program uses in place is never the older one.
        block.read_mostly = device_->memory(block.purpose).host_address(block.range.start) != 0;
        break;
      case Advice::preferred_device:
        block.preference = Preference::device;
        break;
      case Advice::preferred_host:
        block.preference = Preference::host;
        break;
      case Advice::unset_preferred:
        block.preference = Preference::none;
        break;
      case Advice::accessed_by:
        block.accessed_by = true;
        if (block.settled() && block.at == Place::host) moves_->map_host(block);
        break;
      case Advice::unset_accessed_by:
        block.accessed_by = false;
        moves_->unmap_idle(block);
        break;
    }
  }
}

void Residency::written(const Blocks& blocks, Place where) {
  const Lock lock = locked();
  if (where == Place::card) check_open();
  for (const BlockId id : blocks) {
    if (where != Place::card || table_[id].committed()) moves_->written(table_[id], where);
  }
}

void Residency::let_die(const Blocks& blocks) {
  const Lock lock = locked();
  for (const BlockId id : blocks) {
    const auto change = table_.change(id);
    table_[id].dead = true;
  }
}

void Residency::end_uses(const Blocks& blocks, std::span<const std::pair<Stream, Fence>> ends) {
  const Lock lock = locked();
  for (const BlockId id : blocks) {
    for (const auto& [stream, fence] : ends) table_[id].used(stream, fence);
  }
}

Bytes Residency::set_budget(Bytes budget, const Poll& poll) {
  Lock lock = locked();
  check_open();
  if (budget < settings_.block || budget > device_->facts().capacity) {
    throw BadConfig("a budget is at least one block (" + text(settings_.block) +
                    ") and at most the card's " + text(device_->facts().capacity) + ", not " +
                    text(budget));
  }
  if (budget > budget_) device_->memory(Purpose::weights).check_budget(budget);
  const Bytes previous = budget_;
  const auto check_leases = [&](Bytes reserved) {
    const Bytes confined = table_.sums().confined;
    const Bytes bound = table_.sums().leased + confined + reserved;
    if (bound <= budget) return;
    throw OutOfMemory(
        "the budget cannot become " + text(budget) + " now: " + text(table_.sums().leased) +
            " are leased by running modules and pins" +
            (confined > 0 ? " and " + text(confined) +
                                " are activations and buffers, which stay on this card"
                          : "") +
            (reserved > 0 ? " and " + text(reserved) + " are where packed weights arrive" : "") +
            "; try again when they end",
        {.asked = budget,
         .budget = previous,
         .resident = table_.sums().held[Place::card],
         .leased = bound});
  };
  check_leases(0);
  budget_ = budget;
  try {
    finish_moves(lock, moves_->last_job(), poll);  // those of the previous budget
    follow_staging(lock, poll);
    while (table_.sums().held[Place::card] > budget_) {  // which another thread may have set again
      const bool packing = table_.sums().reserved > table_.sums().staging;
      Falls victims;
      const auto evictable = [this](BlockId id) { return table_[id].evictable(); };
      if (moves_->make_room({}, evictable, true, victims)) {
        evict(lock, victims, EvictCause::budget, poll);
      } else if (moving() || packing) {
        // Other threads' moves: what is arriving may leave when it is there, and what somebody
        // packs in is given back.
        wait(lock, poll);
        follow_staging(lock, poll);
      } else {
        check_leases(table_.sums().reserved);
        throw Error("the policy names no block to leave, so the budget cannot become " +
                    text(budget) + "; " + text(table_.sums().idle[Place::card]) + " could leave");
      }
    }
    strategy_->budget_changed();
    moves_->drop_unwanted();
    pump(lock);
  } catch (...) {
    if (budget_ == budget) budget_ = previous;
    throw;
  }
  notes_.budget(budget);
  device_->memory(Purpose::weights).trim(budget);
  return previous;
}

void Residency::close(const Poll& poll) {
  if (generation_ != process_generation()) return;  // the parent's, and its to close
  Lock lock = locked();
  if (closed_) return;
  drop_damaged(lock, poll);
  while (moving()) wait(lock, poll);
  if (holders_.leases() > 0) {
    throw InUse("cannot close the session: " + std::to_string(holders_.leases()) +
                " modules are running in it; let them finish first");
  }
  closed_ = true;
  for (const Range range : table_.ranges()) {
    const Blocks& blocks = table_.blocks_in(range);
    for (const BlockId id : blocks) moves_->unmap_idle(table_[id]);
    device_->memory(table_[blocks.front()].purpose).settle(range);
  }
  find_damage();
  tell_damage({});
}

}  // namespace vramx
