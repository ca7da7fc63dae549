#include "device/simulated_packing.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "device/simulated_parts.hpp"
#include "forms/host_codec.hpp"

namespace vramx {

namespace {

void spoil(std::vector<std::byte>& bytes) noexcept {
  std::fill(bytes.begin(), bytes.end(), std::byte{poison});
}

/// The first of a map's entries in a range, and the one after the last.
template <typename Map>
auto within(Map& map, Range range) {
  return std::pair(map.lower_bound(range.start), map.lower_bound(range.end()));
}

/// The first of the pieces that overlap a range.
template <typename Map>
auto first_of(Map& map, Range range) {
  auto it = map.upper_bound(range.start);
  if (it != map.begin() && std::prev(it)->second.piece.end() > range.start) --it;
  return it;
}

}  // namespace

Bytes SimulatedPacking::staging() const {
  const std::lock_guard lock(card_.mutex_);
  return largest_ * stages_.size();
}

Rates SimulatedPacking::link_rates() const {
  const Rates& link = card_.spec_.link;
  return {.up = link.up, .down = link.down, .unpack = rate()};
}

// Bytes go up raw, and come back packed as others go up.
Bytes SimulatedPacking::pack(Range piece, const std::vector<TypedRange>& types) {
  const std::lock_guard lock(card_.mutex_);
  card_.injected(Operation::pack);
  card_.work_.finish(piece);  // some of which may still come from the card
  unsigned char* const raw = card_.raw_bytes(card_.placed(piece), piece);
  const auto [first, last] = within(packed_, piece);
  if (first != last) {
    throw BadConfig("what is at " + std::to_string(first->first) + " has a packed copy already");
  }
  card_.check_room(scratch(piece.size));
  Packed packed{.piece = piece, .form = {}, .bytes = std::make_shared<std::vector<std::byte>>()};
  packed.form = vramx::pack(raw, piece.size, types, *packed.bytes);
  const Bytes size = packed.form.size;
  const bool smaller = pays(size, piece.size);
  if (smaller) card_.check_host_room(size);

  const auto used = static_cast<std::int64_t>(scratch(piece.size));
  const double from = std::max(card_.host_now_, card_.link_[0]);
  card_.host_now_ = card_.link_[0] =
      from + card_.spec_.latency + static_cast<double>(piece.size) / card_.spec_.link.up;
  card_.account(from, used);
  card_.account(card_.host_now_, -used);
  card_.carry(used);
  card_.carry(-used);
  if (!smaller) return 0;
  card_.host_used_ += size;
  if (size > largest_) unstage();
  largest_ = std::max(largest_, size);
  packed.alone = !card_.spec_.keeps_raw;
  if (packed.alone) {
    std::memset(raw, poison, piece.size);
    given_back_ += piece.size;
    card_.host_used_ -= piece.size;
  }
  packed_[piece.start] = std::move(packed);
  return size;
}

void SimulatedPacking::stage() {
  if (largest_ <= staged_) return;
  const Bytes more = (largest_ - staged_) * stages_.size();
  card_.check_room(more);
  for (Stage& each : stages_) {
    each.bytes = std::make_shared<std::vector<std::byte>>(largest_, std::byte{poison});
  }
  card_.account(card_.host_now_, static_cast<std::int64_t>(more));
  card_.carry(static_cast<std::int64_t>(more));
  staged_ = largest_;
}

void SimulatedPacking::unstage() noexcept {
  const auto all = static_cast<std::int64_t>(std::exchange(staged_, 0) * stages_.size());
  if (all == 0) return;
  card_.host_now_ = std::max(card_.host_now_, queue_.at);
  card_.work_.finish(queue_.last);
  for (Stage& each : stages_) {
    spoil(*each.bytes);
    each.bytes = nullptr;
  }
  card_.account(card_.host_now_, -all);
  card_.carry(-all);
}

void SimulatedPacking::trim() noexcept {
  const std::lock_guard lock(card_.mutex_);
  unstage();
}

/// Without a packed copy there is no need of staging memory.
void SimulatedPacking::unstage_if_empty() noexcept {
  if (!packed_.empty()) return;
  unstage();
  largest_ = 0;
}

void SimulatedPacking::unpack_alone(Range range, void* to) const {
  for (auto it = first_of(packed_, range); it != packed_.lower_bound(range.end()); ++it) {
    const Packed& packed = it->second;
    if (!packed.alone) continue;
    std::vector<unsigned char> raw(packed.piece.size);
    vramx::unpack(packed.form, packed.bytes->data(), packed.form.size, raw.data(), raw.size());
    const Range part = packed.piece.common(range);
    std::memcpy(static_cast<unsigned char*>(to) + (part.start - range.start),
                raw.data() + (part.start - packed.piece.start), part.size);
  }
}

void SimulatedPacking::make_raw(Range range) {
  for (auto it = first_of(packed_, range); it != packed_.lower_bound(range.end()); ++it) {
    Packed& packed = it->second;
    if (!packed.alone) continue;
    vramx::unpack(packed.form, packed.bytes->data(), packed.form.size,
                  card_.chunk(packed.piece).on_host(packed.piece.start), packed.piece.size);
    packed.alone = false;
    given_back_ -= packed.piece.size;
    card_.host_used_ += packed.piece.size;
  }
}

void SimulatedPacking::forget(Range range) noexcept {
  const std::lock_guard lock(card_.mutex_);
  try {
    make_raw(range);
  } catch (const Corrupted&) {
    return;  // else there were no copy of these bytes
  }
  drop(range);
}

void SimulatedPacking::drop(Range range) noexcept {
  const auto from = first_of(packed_, range);
  const auto to = packed_.lower_bound(range.end());
  for (auto it = from; it != to; ++it) {
    const auto& [piece, form, bytes, alone] = it->second;
    card_.host_used_ -= form.size;
    if (!alone) continue;
    given_back_ -= piece.size;
    card_.host_used_ += piece.size;
  }
  packed_.erase(from, to);
  unstage_if_empty();
}

void SimulatedPacking::damage(Address address, std::uint64_t bit) {
  const auto next = packed_.upper_bound(address);
  if (next == packed_.begin() || !std::prev(next)->second.piece.contains(address)) {
    throw BadConfig("the simulated host has no packed copy of what is at " +
                    std::to_string(address));
  }
  auto& bytes = *std::prev(next)->second.bytes;
  bytes[bit / 8 % bytes.size()] ^= std::byte{1} << bit % 8;
}

std::vector<Range> SimulatedPacking::damaged() {
  const std::lock_guard lock(card_.mutex_);
  return std::exchange(damaged_, {});
}

void SimulatedPacking::release(Range range) noexcept {
  std::erase_if(damaged_, [&](Range piece) { return range.contains(piece); });
  const auto [from, to] = within(on_card_, range);
  for (auto it = from; it != to; ++it) {
    const auto size = static_cast<std::int64_t>(it->second.bytes->size());
    card_.account(card_.host_now_, -size);
    card_.carry(-size);
  }
  on_card_.erase(from, to);
  drop(range);
}

std::vector<Range> SimulatedPacking::pieces(Range range) const {
  card_.placed(range);
  std::vector<Range> all;
  for (Address at = range.start; at < range.end(); at = all.back().end()) {
    const auto it = packed_.find(at);
    if (it == packed_.end() || it->second.piece.end() > range.end()) {
      throw BadConfig("the simulated host has no packed copy of what is at " + std::to_string(at));
    }
    all.push_back(it->second.piece);
  }
  return all;
}

const SimulatedPacking::OnCard& SimulatedPacking::on_card(Range piece) const {
  const auto it = on_card_.find(piece.start);
  if (it == on_card_.end()) {
    throw BadConfig("the simulated card has no packed copy of what is at " +
                    std::to_string(piece.start));
  }
  return it->second;
}

double SimulatedPacking::start(double at, Fences after) const {
  return std::max({at, card_.host_now_, SimulatedDevice::latest(after)});
}

/// The card looks at packed bytes where they arrived.
void SimulatedPacking::arrived(Range piece, const PackedBlock& form,
                               const std::vector<std::byte>& bytes) {
  if (digest(bytes.data(), form.size) != form.digest) damaged_.push_back(piece);
}

void SimulatedPacking::decode(Range piece, bool moved, const Memory& from, double at,
                              Tickets after) {
  const auto& c = card_.chunk(piece);
  queue_.at = std::max(queue_.at, at) + static_cast<double>(piece.size) / rate();
  after.push_back(queue_.last);
  unsigned char* const host = moved && !c.host_addresses ? c.on_host(piece.start) : nullptr;
  const PackedBlock& form = packed_.at(piece.start).form;
  queue_.last = card_.work_.add(after, piece, [this, piece, form, from, host] {
    card_.carry(static_cast<std::int64_t>(piece.size));
    try {
      vramx::unpack(form, from->data(), form.size, piece.data(), piece.size);
    } catch (const Corrupted&) {
      std::memset(piece.data(), poison, piece.size);
    }
    if (host != nullptr) std::memset(host, poison, piece.size);
  });
}

Fence SimulatedPacking::Raw::fetch(Range range, FetchMode how, Lane lane, Fences after) {
  SimulatedDevice& card = packing_.card_;
  if (how == FetchMode::empty) return card.fetch(range, how, lane, after);
  const auto lock = card.begin_fetch();
  auto& c = card.absent(range);
  const Fence arrival = arrive(range, how == FetchMode::move, lane, after);
  c.on_card[range.start] = range.size;
  return arrival;
}

Fence SimulatedPacking::Raw::evict(Range range, EvictMode how, Lane lane, Fences after) {
  return packing_.card_.evict(range, how, lane, after);
}

Fence SimulatedPacking::Link::arrive(Range range, bool moved, Lane lane, Fences after) {
  SimulatedPacking& all = packing_;
  SimulatedDevice& card = all.card_;
  const auto pieces = all.pieces(range);
  auto& queue = card.lanes_.at(lane);
  all.stage();
  Stage& stage = all.stages_[lane];
  const double start = all.start(queue.at, after);
  card.account(start, static_cast<std::int64_t>(range.size));
  for (const Range& piece : pieces) {
    const auto& [of, form, from, alone] = all.packed_.at(piece.start);
    queue.at = card.cross(std::max(start + card.spec_.latency, stage.free), from->size());
    Tickets first = SimulatedDevice::tickets(after);
    first.insert(first.end(), {queue.last, stage.last});
    queue.last = card.work_.add(first, piece, [&all, piece, form, from, to = stage.bytes] {
      std::memcpy(to->data(), from->data(), from->size());
      all.arrived(piece, form, *to);
    });
    all.decode(piece, moved, stage.bytes, queue.at, {queue.last});
    stage.free = all.queue_.at;
    stage.last = all.queue_.last;
  }
  return std::make_shared<SimulatedDevice::Time>(all.queue_.at, all.queue_.last);
}

Rates SimulatedPacking::Unpack::rates() const {
  return {.up = packing_.rate(), .down = packing_.card_.spec_.link.down, .unpack = packing_.rate()};
}

Fence SimulatedPacking::Unpack::arrive(Range range, bool moved, Lane /*lane*/, Fences after) {
  SimulatedPacking& all = packing_;
  const auto pieces = all.pieces(range);
  double start = all.start(all.queue_.at, after);
  for (const Range& piece : pieces) start = std::max(start, all.on_card(piece).arrives);
  all.card_.account(start, static_cast<std::int64_t>(range.size));
  for (const Range& piece : pieces) {
    const OnCard& packed = all.on_card(piece);
    Tickets first = SimulatedDevice::tickets(after);
    first.push_back(packed.arrival);
    all.decode(piece, moved, packed.bytes, start, std::move(first));
  }
  return std::make_shared<SimulatedDevice::Time>(all.queue_.at, all.queue_.last);
}

Fence SimulatedPacking::Hold::fetch(Range range, FetchMode /*how*/, Lane lane, Fences after) {
  SimulatedPacking& all = packing_;
  SimulatedDevice& card = all.card_;
  const auto lock = card.begin_fetch();
  const auto pieces = all.pieces(range);
  Bytes size = 0;
  for (const Range& piece : pieces) {
    if (all.on_card_.contains(piece.start)) {
      throw BadConfig("fetch of a packed copy that is on the card");
    }
    size += all.packed_.at(piece.start).form.size;
  }
  card.check_room(size);
  auto& queue = card.lanes_.at(lane);
  const double start = all.start(queue.at, after);
  queue.at = card.cross(start + card.spec_.latency, size);
  card.account(start, static_cast<std::int64_t>(size));
  Tickets first = SimulatedDevice::tickets(after);
  for (const Range& piece : pieces) {
    const auto& [of, form, from, alone] = all.packed_.at(piece.start);
    const auto to = std::make_shared<std::vector<std::byte>>(from->size(), std::byte{poison});
    first.push_back(queue.last);
    queue.last = card.work_.add(first, piece, [&all, piece, form, from, to] {
      all.card_.carry(static_cast<std::int64_t>(to->size()));
      std::copy(from->begin(), from->end(), to->begin());
      all.arrived(piece, form, *to);
    });
    all.on_card_[piece.start] = {.bytes = to, .arrives = queue.at, .arrival = queue.last};
  }
  return std::make_shared<SimulatedDevice::Time>(queue.at, queue.last);
}

Fence SimulatedPacking::Hold::evict(Range range, EvictMode /*how*/, Lane lane, Fences after) {
  SimulatedPacking& all = packing_;
  SimulatedDevice& card = all.card_;
  const std::lock_guard lock(card.mutex_);
  card.injected(Operation::evict);
  std::vector<Memory> leaving;
  Bytes size = 0;
  for (const Range& piece : all.pieces(range)) {
    leaving.push_back(all.on_card(piece).bytes);
    size += leaving.back()->size();
  }
  const auto& queue = card.lanes_.at(lane);
  const double end = all.start(queue.at, after);
  card.account(end, -static_cast<std::int64_t>(size));
  const auto [from, to] = within(all.on_card_, range);
  all.on_card_.erase(from, to);
  Tickets first = SimulatedDevice::tickets(after);
  first.push_back(queue.last);
  const auto gone = card.work_.add(first, range, [&card, leaving, size] {
    card.carry(-static_cast<std::int64_t>(size));
    for (const Memory& each : leaving) spoil(*each);
  });
  return std::make_shared<SimulatedDevice::Time>(end, gone);
}

}  // namespace vramx
