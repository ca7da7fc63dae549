#include "pool/scratch.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "pool/packer.hpp"

namespace vramx {

namespace {

constexpr Bytes blocks_an_arena = 8;
// Among the pieces that fit, this many of the smallest are looked at for one that is on the card.
constexpr int looked_at = 8;

}  // namespace

Scratch::Scratch(std::shared_ptr<Device> device, std::shared_ptr<Residency> residency, Bytes block)
    : device_(std::move(device)), residency_(std::move(residency)), block_(block) {}

Scratch::Pieces::iterator Scratch::fitting(Bytes size, Stream stream) {
  auto best = pieces_.end();
  int best_score = -1;
  auto it = free_.lower_bound({size, 0});
  for (int i = 0; i < looked_at && it != free_.end(); ++i, ++it) {
    const auto piece = pieces_.find(it->second);
    const auto& ends = piece->second.ends;
    const bool own =
        std::all_of(ends.begin(), ends.end(), [&](const auto& end) { return end.first == stream; });
    const bool near = residency_->on_card(residency_->blocks_of({it->second, size}));
    const int score = 2 * static_cast<int>(near) + static_cast<int>(own);
    if (score > best_score) {
      best = piece;
      best_score = score;
    }
  }
  return best;
}

/// The live piece that begins there; the end where there is none.
Scratch::Pieces::iterator Scratch::find_live(Address address) {
  const auto piece = pieces_.find(address);
  return piece != pieces_.end() && piece->second.live ? piece : pieces_.end();
}

void Scratch::grow(Bytes size) {
  const Bytes needed = round_up(size, device_->memory(Purpose::scratch).traits().granule);
  const auto make = [&](Bytes bytes) {
    auto arena = std::make_unique<Arena>(device_, residency_, bytes, Purpose::scratch, true);
    const Range range = arena->range();
    arenas_[range.start] = std::move(arena);
    pieces_[range.start] = Piece{.size = range.size, .live = false, .ends = {}};
    free_.insert({range.size, range.start});
  };
  try {
    make(std::max(needed, blocks_an_arena * block_));
  } catch (const OutOfMemory&) {
    trim_locked();
    make(needed);
  }
}

/// Returns those in which nothing lives now.
Blocks Scratch::count_live(const Blocks& blocks, int change) {
  Blocks dead;
  for (const BlockId id : blocks) {
    auto& count = live_in_[id];
    count += static_cast<std::size_t>(change);
    if (count > 0) continue;
    dead.push_back(id);
    live_in_.erase(id);
  }
  return dead;
}

// Takes a piece of `size` out of the free ones, the rest staying free.
void Scratch::carve(Pieces::iterator piece, Bytes size) {
  free_.erase({piece->second.size, piece->first});
  if (piece->second.size > size) {
    const Address rest = piece->first + size;
    const Bytes left = piece->second.size - size;
    pieces_[rest] = Piece{.size = left, .live = false, .ends = piece->second.ends};
    free_.insert({left, rest});
  }
  piece->second.size = size;
  piece->second.live = true;
}

void Scratch::put_back(Pieces::iterator piece) {
  piece->second.live = false;
  free_.insert({piece->second.size, piece->first});
  piece = merge(piece);
  if (piece != pieces_.begin()) merge(std::prev(piece));
}

Range Scratch::allocate(Bytes size, Stream stream, const Poll& poll) {
  size = round_up(std::max<Bytes>(size, 1), tensor_alignment);
  std::unique_lock lock(mutex_);
  auto piece = fitting(size, stream);
  if (piece == pieces_.end()) {
    grow(size);
    piece = fitting(size, stream);
  }
  carve(piece, size);
  const Range range{piece->first, size};
  const Blocks blocks = residency_->blocks_of(range);
  count_live(blocks, +1);  // so that no other's end takes them for dead meanwhile
  try {
    // It may wait for a lease of another thread, which may free before it ends that lease.
    lock.unlock();
    residency_->place(blocks, stream, poll);
    lock.lock();
    for (const auto& [ended_on, fence] : piece->second.ends) {
      if (ended_on != stream) device_->streams().order(stream, fence);
    }
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    residency_->let_die(count_live(blocks, -1));
    put_back(piece);
    throw;
  }
  piece->second.ends = {{stream, nullptr}};
  ++live_;
  live_bytes_ += size;
  return range;
}

void Scratch::record(Address address, Stream stream) {
  const std::lock_guard lock(mutex_);
  const auto it = find_live(address);
  if (it == pieces_.end()) return;
  auto& ends = it->second.ends;
  const bool known =
      std::any_of(ends.begin(), ends.end(), [&](const auto& end) { return end.first == stream; });
  if (!known) ends.emplace_back(stream, nullptr);
}

Scratch::Pieces::iterator Scratch::merge(Pieces::iterator piece) {
  const auto next = std::next(piece);
  const bool together = next != pieces_.end() && !next->second.live && !piece->second.live &&
                        next->first == piece->first + piece->second.size &&
                        !arenas_.contains(next->first);
  if (!together) return piece;
  free_.erase({piece->second.size, piece->first});
  free_.erase({next->second.size, next->first});
  for (auto& [stream, fence] : next->second.ends) {
    const auto same = std::find_if(piece->second.ends.begin(), piece->second.ends.end(),
                                   [on = stream](const auto& end) { return end.first == on; });
    if (same == piece->second.ends.end()) {
      piece->second.ends.emplace_back(stream, std::move(fence));
    } else {
      // Nothing says which of the two is later; the stream's present end is later than both.
      same->second = mark_or_nothing(device_->streams(), stream);
    }
  }
  piece->second.size += next->second.size;
  pieces_.erase(next);
  free_.insert({piece->second.size, piece->first});
  return piece;
}

void Scratch::free(Address address) noexcept {
  const std::lock_guard lock(mutex_);
  const auto piece = find_live(address);
  if (piece == pieces_.end()) return;
  if (!std::exchange(piece->second.abandoned, false)) end_life(piece);
  --live_;
  put_back(piece);
}

void Scratch::abandon(Address address) noexcept {
  const std::lock_guard lock(mutex_);
  const auto piece = find_live(address);
  if (piece == pieces_.end()) return;
  if (!std::exchange(piece->second.abandoned, true)) end_life(piece);
}

void Scratch::end_life(Pieces::iterator piece) {
  for (auto& [stream, fence] : piece->second.ends)
    fence = mark_or_nothing(device_->streams(), stream);
  live_bytes_ -= piece->second.size;
  const Blocks blocks = residency_->blocks_of({piece->first, piece->second.size});
  residency_->end_uses(blocks, piece->second.ends);
  residency_->let_die(count_live(blocks, -1));
}

void Scratch::trim_locked() {
  for (auto it = arenas_.begin(); it != arenas_.end();) {
    const Range range = it->second->range();
    const auto piece = pieces_.find(range.start);
    const bool whole =
        piece != pieces_.end() && !piece->second.live && piece->second.size == range.size;
    // A group may still name memory that was freed, and hold a lease on it.
    const auto unleased = [](const Block& block) { return block.leases == 0; };
    if (!whole || !residency_->all(residency_->blocks_of(range), unleased)) {
      ++it;
      continue;
    }
    for (const auto& [stream, fence] : piece->second.ends) device_->streams().wait(fence);
    free_.erase({range.size, range.start});
    pieces_.erase(piece);
    it = arenas_.erase(it);
  }
}

void Scratch::trim() {
  const std::lock_guard lock(mutex_);
  trim_locked();
}

std::size_t Scratch::live() const {
  const std::lock_guard lock(mutex_);
  return live_;
}

}  // namespace vramx
