// Making packed copies, and the room on the card that they take to arrive in.
#include "device/packing.hpp"

#include <algorithm>
#include <utility>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "residency/residency.hpp"

namespace vramx {

namespace {

/// Packed bytes arrive in at most this part of the budget; else they are not used. Where the host
/// has no raw bytes beside them, it would have them again then.
Bytes staging_part(const Traits& traits) { return traits.keeps_raw ? 8 : 4; }

/// What of the weights, in order, lies in a block.
std::vector<TypedRange> within(const std::vector<TypedRange>& weights, Range block) {
  std::vector<TypedRange> parts;
  const auto first = std::ranges::upper_bound(weights, block.start, {}, &TypedRange::end);
  for (auto each = first; each != weights.end() && each->offset < block.end(); ++each) {
    const Range part = Range{each->offset, each->size}.common(block);
    parts.push_back({.offset = part.start - block.start, .size = part.size, .type = each->type});
  }
  return parts;
}

/// Those on the card, which nobody unpacks without staging.
Falls packed_copies(const BlockTable& table) {
  Falls falls;
  for (BlockId id = 0; id < table.size(); ++id) {
    if (table[id].packed_on_card) falls.push_back({.id = id, .packed = true});
  }
  return falls;
}

}  // namespace

/// Has so much of the card for something else than blocks. Returns false where there is no room.
bool Residency::reserve(Lock& lock, Bytes bytes, const Poll& poll) {
  for (;;) {
    Falls falls;
    PerPlace<Bytes> need{};
    need[Place::card] = bytes;
    const auto evictable = [this](BlockId id) { return table_[id].evictable(); };
    if (moves_->make_room(need, evictable, true, falls)) {
      if (falls.empty() && claim(lock, bytes, poll)) return true;
      evict(lock, falls, EvictCause::budget, poll);
    } else if (moving()) {
      wait(lock, poll);
    } else {
      return false;
    }
  }
}

/// Returns false, and has nothing, where what was leaving for it has stayed. What it is for does
/// not wait for what leaves and has left, as arrivals do.
bool Residency::claim(Lock& lock, Bytes bytes, const Poll& poll) {
  table_.reserve(bytes);
  notes_.reserved(table_.sums().reserved);
  try {
    finish_moves(lock, moves_->last_job(), poll);
    for (BlockId id = 0; id < table_.size(); ++id) {
      device_->streams().wait(table_[id].departure);
      device_->streams().wait(table_[id].packed_departure);
    }
  } catch (...) {
    unreserve(bytes);
    throw;
  }
  if (table_.sums().held[Place::card] <= budget_) return true;
  unreserve(bytes);
  return false;
}

void Residency::unreserve(Bytes bytes) {
  if (bytes == 0) return;
  table_.unreserve(bytes);
  notes_.reserved(table_.sums().reserved);
}

void Residency::follow_staging(Lock& lock, const Poll& poll) {
  Packing* const packing = device_->memory(Purpose::weights).packing();
  if (packing == nullptr) return;
  const Bytes staging = table_.sums().packed > 0 ? packing->staging() : 0;
  const Bytes part = staging_part(device_->memory(Purpose::weights).traits());
  const Bytes wanted = staging * part <= budget_ ? staging : 0;
  const Bytes had = table_.sums().staging;
  if (wanted < had) {
    table_.stage(0);
    try {
      finish_moves(lock, moves_->last_job(), poll);  // those that may still arrive packed
      if (wanted == 0) evict(lock, packed_copies(table_), EvictCause::budget, poll);
    } catch (...) {
      table_.stage(had);
      throw;
    }
    packing->trim();
    unreserve(had);
  }
  const Bytes more = wanted - std::min(wanted, table_.sums().staging);
  if (more > 0 && reserve(lock, more, poll)) {
    table_.stage(table_.sums().staging + more);
    packing->grant();
  }
}

bool Residency::pack(std::vector<TypedRange> weights, const Poll& poll) {
  Packing* const packing = device_->memory(Purpose::weights).packing();
  if (packing == nullptr) return false;
  Lock lock = locked();
  check_open();
  std::ranges::sort(weights, {}, &TypedRange::offset);
  Blocks blocks;
  for (const TypedRange& each : weights) {
    for (const BlockId id : table_.find({each.offset, each.size})) {
      if (blocks.empty() || blocks.back() != id) blocks.push_back(id);
    }
  }
  put_on_host(lock, blocks, "pack weights", poll);
  const Bytes scratch = packing->scratch(settings_.block);
  if (!reserve(lock, scratch, poll)) return false;
  struct Reserved {
    ~Reserved() { give_back(); }
    void give_back() { of.unreserve(std::exchange(bytes, 0)); }
    Residency& of;
    Bytes bytes;
  } reserved{*this, scratch};
  put_on_host(lock, blocks, "pack weights", poll);
  for (const BlockId id : blocks) {
    moves_->unmap_idle(table_[id]);
    device_->streams().wait(table_[id].departure);  // its bytes may be on their way back
  }
  std::vector<std::pair<Range, Bytes>> before;  // and what of them is packed
  for (const BlockId id : blocks) before.emplace_back(table_[id].range, table_[id].packed);
  for (const BlockId id : blocks) {
    const auto change = table_.change(id);
    table_[id].packed_stale = table_[id].packed > 0 && table_[id].packed_stale;
  }
  std::vector<Bytes> sizes;
  const std::exception_ptr error = hold_on_host(lock, blocks, [&] {
    Bytes raw = 0;  // what is not packed yet
    for (const auto& [block, size] : before) raw += size > 0 ? 0 : block.size;
    try {
      packing->begin(raw);
      struct End {
        ~End() { packing.end(); }
        Packing& packing;
      } const end{*packing};
      for (const auto& [block, size] : before) {
        sizes.push_back(size > 0 ? size : packing->pack(block, within(weights, block)));
        raw -= size > 0 ? 0 : block.size;
      }
    } catch (const OutOfMemory& refused) {
      throw OutOfMemory(text(raw) + " of weights get no packed copies: " + refused.what(),
                        refused.figures);
    }
  });
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    Block& block = table_[blocks[i]];
    const bool written = block.packed_stale;  // by others meanwhile
    {
      const auto change = table_.change(blocks[i]);
      block.packed = sizes[i];
      block.packed_room = packing->room(sizes[i]);
      block.packed_stale = false;
    }
    if (written) moves_->written(block, Place::host);
  }
  reserved.give_back();
  follow_staging(lock, poll);
  changed_.notify();
  if (error) std::rethrow_exception(error);
  return true;
}

}  // namespace vramx
