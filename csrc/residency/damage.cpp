// Packed weights that arrived damaged: what came of them is dropped, and the program is told.
#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "device/packing.hpp"
#include "residency/residency.hpp"

namespace vramx {

void Residency::call(Range weights, std::string name) {
  const Lock lock = locked();
  names_.add(weights, std::move(name));
}

/// Asks the card nothing, and takes next to no time where nothing was damaged.
void Residency::find_damage() {
  Packing* const packing = device_->memory(Purpose::weights).packing();
  if (packing == nullptr) return;
  // Giving up a packed copy waits for what is on its way, of which more may be damaged.
  for (auto pieces = packing->damaged(); !pieces.empty(); pieces = packing->damaged()) {
    for (const Range piece : pieces) {
      if (!table_.owns(piece)) continue;
      for (const BlockId id : table_.find(piece)) {
        Block& block = table_[id];
        const std::string weights = names_.in(block.range);
        std::string found = (weights.empty() ? table_.name_of(block) : weights) + " (a block of " +
                            text(block.range.size) + " at " + std::to_string(block.range.start) +
                            ")";
        const bool told = block.damaged || std::ranges::find(damage_, found) != damage_.end();
        if (!told) damage_.push_back(std::move(found));
        moves_->damaged(block);
      }
    }
  }
}

/// Has what is wrong on the card leave it, as far as nobody uses it.
void Residency::drop_damaged(Lock& lock, const Poll& poll) {
  find_damage();
  Falls falls;
  for (const BlockId id : table_.damaged()) falls.push_back({id, Place::card});
  evict(lock, falls, EvictCause::host, poll);
}

/// Throws Corrupted of what was not told yet, or of blocks that are wrong where they are used.
void Residency::tell_damage(const Blocks& used) {
  for (const BlockId id : used) {
    if (!damage_.empty() || !table_[id].damaged) continue;
    throw Corrupted(
        "weights that arrived on the card damaged are in use: " + names_.in(table_[id].range) +
        ". What is computed with them is wrong; their raw copies come once every "
        "module and pin that uses them lets go");
  }
  if (damage_.empty()) return;
  std::string all;
  for (const std::string& each : std::exchange(damage_, {})) {
    all += (all.empty() ? "" : ", ") + each;
  }
  throw Corrupted(
      "packed weights arrived on the card damaged: " + all +
      ". What was computed with them since is wrong: compute it again, with their raw copies, "
      "which come from now on and are whole unless the program wrote to these weights meanwhile; "
      "load those again. If this comes again, test the memory of this machine");
}

void Residency::check_arrivals(Lock& lock, const Blocks& asked, const Poll& poll) {
  drop_damaged(lock, poll);
  tell_damage(asked);
}

}  // namespace vramx
