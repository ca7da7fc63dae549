// The host's copies of mapped memory: what pins them, gives them back once they are packed and
// makes them again, and how the program reaches them.
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "base/pages.hpp"
#include "device/mapped_packing.hpp"
#include "device/mapped_parts.hpp"

namespace vramx {

Bytes MappedStore::pageable_bytes() const {
  if (!options_.keeps_raw) return unpinnable_;
  const std::lock_guard lock(mutex_);
  Bytes all = 0;
  for (const auto& [start, reserved] : reserved_) {
    if (reserved->host && !reserved->pinned()) all += reserved->addresses.range().size;
  }
  return all;
}

Bytes MappedStore::given_back_bytes() const { return given_back_; }

std::unique_ptr<HostCopy> MappedStore::host_copy_for(Bytes size) const {
  if (!options_.keeps_raw) return std::make_unique<HostCopy>(context()->driver, size, false);
  try {
    return std::make_unique<HostCopy>(context()->driver, size, true);
  } catch (const PinRefused&) {
    if (options_.unpinned == Unpinned::refuse) throw;
  }
  return std::make_unique<HostCopy>(context()->driver, size, false);
}

std::mutex& MappedStore::mutex_of(const Unit& unit) const {
  return unit_mutexes_[unit.range.start / traits_.unit % unit_mutexes_.size()];
}

void* MappedStore::raw_bytes(Unit& unit, Before before) {
  if (options_.keeps_raw) return unit.host;
  const std::lock_guard lock(mutex_of(unit));
  if (!unit.given_back) return unit.host;
  take_pages_again(unit.host_range());
  try {
    if (before == Before::needed) packing_->unpack_on_host(unit.range, unit.host);
  } catch (...) {
    give_back_pages(unit.host_range());
    throw;
  }
  unit.given_back = false;
  given_back_ -= unit.range.size;
  return unit.host;
}

void* MappedStore::pinned_bytes(Unit& unit, Before before) {
  raw_bytes(unit, before);
  if (options_.keeps_raw || unit.pin || unit.unpinnable) return unit.host;
  try {
    unit.pin = std::make_unique<Pin>(context()->driver, unit.host_range());
  } catch (const PinRefused&) {
    if (options_.unpinned == Unpinned::refuse) throw;
    unit.unpinnable = true;
    unpinnable_ += unit.range.size;
  }
  return unit.host;
}

void* MappedStore::raw_bytes(Range range) {
  Unit& unit = units_of(find(range), range).front();
  return static_cast<char*>(raw_bytes(unit)) + (range.start - unit.range.start);
}

void MappedStore::packed(Range range) {
  if (options_.keeps_raw) return;
  Unit& unit = whole_units(range).front();
  const std::lock_guard lock(mutex_of(unit));
  unit.pin.reset();
  if (std::exchange(unit.unpinnable, false)) unpinnable_ -= unit.range.size;
  give_back_pages(unit.host_range());
  unit.given_back = true;
  given_back_ += unit.range.size;
}

template <class Copy>
void MappedStore::reach_on_card(Reserved& home, Range range, const Copy& copy) {
  const Current here = current();
  CUstream lane = card_->lanes().at(0);
  for (const Unit& unit : units_of(home, range)) {
    const Range part = unit.range.common(range);
    copy(part, part.start - range.start, lane);
  }
  cuda().check(cuda().stream_wait(lane), "cuStreamSynchronize");
}

void MappedStore::store(Address to, const void* from, Bytes size) {
  Reserved& home = find({to, size});
  if (home.host) {
    for (Unit& unit : units_of(home, {to, size})) {
      const Range part = unit.range.common({to, size});
      auto* const at = static_cast<char*>(raw_bytes(unit)) + (part.start - unit.range.start);
      std::memcpy(at, static_cast<const char*>(from) + (part.start - to), part.size);
    }
    return;
  }
  reach_on_card(home, {to, size}, [&](Range part, Bytes offset, CUstream lane) {
    const auto* source = static_cast<const char*>(from) + offset;
    cuda().check(cuda().copy_to_card(part.start, source, part.size, lane), "cuMemcpyHtoDAsync");
  });
}

/// What is packed alone stays so.
void MappedStore::load_part(void* to, Unit& unit, Range part) {
  const Bytes offset = part.start - unit.range.start;
  const std::unique_lock lock(mutex_of(unit));
  if (!unit.given_back) {
    std::memcpy(to, static_cast<char*>(unit.host) + offset, part.size);
    return;
  }
  if (part.size == unit.range.size) {
    packing_->unpack_on_host(unit.range, to);
    return;
  }
  const auto whole = std::make_unique_for_overwrite<char[]>(unit.range.size);
  packing_->unpack_on_host(unit.range, whole.get());
  std::memcpy(to, whole.get() + offset, part.size);
}

void MappedStore::load(void* to, Address from, Bytes size) {
  Reserved& home = find({from, size});
  if (home.host) {
    for (Unit& unit : units_of(home, {from, size})) {
      const Range part = unit.range.common({from, size});
      load_part(static_cast<char*>(to) + (part.start - from), unit, part);
    }
    return;
  }
  reach_on_card(home, {from, size}, [&](Range part, Bytes offset, CUstream lane) {
    auto* target = static_cast<char*>(to) + offset;
    cuda().check(cuda().copy_to_host(target, part.start, part.size, lane), "cuMemcpyDtoHAsync");
  });
}

}  // namespace vramx
