// Packed copies of blocks: when they come to the card, and leave it.
#include "device/packing.hpp"
#include "residency/moves.hpp"

namespace vramx {

/// Whether a block can come from its packed copy as things are: there is room for packed bytes to
/// arrive in.
bool Moves::unpacks(const Block& block) const {
  return block.unpacks() && table_.sums().staging > 0;
}

bool Moves::takes_packed(const Block& block) const {
  return block.wants_packed() && !block.packed_on_card && unpacks(block);
}

Moves::Way Moves::way_up(const Block& block, Place from, bool holds) {
  Store& memory = memory_of(block);
  const Way raw{&memory.route(from), block.range.size};
  if (from != Place::host || !unpacks(block)) return raw;
  if (holds || block.packed_on_card) return {&memory.packing()->unpack(), 0};
  const bool packed = block.crosses_packed || !memory.traits().keeps_raw;
  return packed ? Way{&memory.packing()->link(), block.packed} : raw;
}

void Moves::hold_packed(const Block& block, FetchCause why, Job& job, std::vector<Up>& hops) {
  job.fetches.push_back(
      {.route = &memory_of(block).packing()->hold(), .range = block.range, .home = block.home});
  hops.push_back({.id = table_.id_of(block), .packed = true, .crossing = block.packed, .why = why});
}

void Moves::drop_packed(const Block& block, EvictCause why, Job& job, std::vector<Down>& hops) {
  // It may be being unpacked.
  job.evictions.push_back({.route = &memory_of(block).packing()->hold(),
                           .range = block.range,
                           .home = block.home,
                           .how = EvictMode::drop,
                           .after = {}});
  if (block.arrival) job.evictions.back().after.push_back(block.arrival);
  hops.push_back({.id = table_.id_of(block), .packed = true, .why = why});
}

void Moves::set_packed_on_card(BlockId id, bool there) {
  const auto change = table_.change(id);
  table_[id].packed_on_card = there;
}

void Moves::drop_unwanted() {
  Falls falls;
  for (const BlockId id : table_.packed_unwanted()) falls.push_back({.id = id, .packed = true});
  if (!falls.empty()) submit(falls, {}, Place::card, EvictCause::plan, FetchCause::use);
}

void Moves::written(Block& block, Place where) {
  const BlockTable::Change change(table_, block);
  block.written(where);
  forget_stale(block);
}

void Moves::damaged(Block& block) {
  const BlockTable::Change change(table_, block);
  block.packed_stale = block.packed > 0;
  block.damaged = block.committed();
  forget_stale(block);
}

// In a Change of the table's. What is on its way may be read still. Where the host has no raw bytes
// beside it, those that the card has go back first: else the old ones would be made anew.
void Moves::forget_stale(Block& block) noexcept {
  if (!block.packed_stale || block.packed_on_card || !block.settled()) return;
  if (block.committed() && !memory_of(block).traits().keeps_raw) return;
  memory_of(block).packing()->forget(block.range);
  block.packed = block.packed_room = 0;
  block.packed_stale = false;
}

}  // namespace vramx
