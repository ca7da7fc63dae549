#include "device/mapped.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"

namespace vramx {

/// What is mapped and moved at once.
struct MappedDevice::Unit {
  Range range;
  void* host = nullptr;         ///< its host copy
  Handle host_memory = 0;       ///< the host copy's, where the card can map it
  Handle card_memory = 0;       ///< while it is on the card
  Handle shown = 0;             ///< the one of these that is mapped at its addresses
  std::vector<Stream> users{};  ///< over the link, since it was last on the card
};

struct MappedDevice::Reserved {
  Addresses addresses;
  std::unique_ptr<HostCopy> host;
  std::vector<Unit> units{};
};

MappedDevice::MappedDevice(const std::string& driver_path, int ordinal, Bytes unit,
                           bool always_shown, Unpinned unpinned)
    : CudaDevice(driver_path, ordinal,
                 {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                  "has no virtual memory management here, which backend=\"mapped\" needs; use "
                  "backend=\"managed\""}),
      access_(access_from(on_card(card_->device))),
      unpinned_(unpinned),
      memory_(card_->driver, card_->device) {
  const Current here = current();
  const CUmemAllocationProp card = on_card(card_->device);
  size_t granularity = 0;
  cuda().check(cuda().granularity(&granularity, &card, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
               "cuMemGetAllocationGranularity");
  facts_.granule = round_up(facts_.granule, granularity);
  if (unit == 0 || unit % facts_.granule != 0) {
    throw BadConfig("the unit of mapped memory is a multiple of " + text(facts_.granule) + " on " +
                    facts_.name + ", not " + std::to_string(unit) + " bytes");
  }
  // Below zero where the host has no nodes, and absent before CUDA 12.2.
  int node = 0;
  if (cuda().device_attribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, card_->device) ==
      CUDA_SUCCESS) {
    node_ = std::max(node, 0);
  }
  facts_.kind = "mapped";
  facts_.unit = unit;
  facts_.reads_over_link = maps_host_memory();
  facts_.shows_at_a_cost = facts_.reads_over_link && !always_shown;
}

MappedDevice::~MappedDevice() = default;

// A container may forbid what the card's attribute promises, so it is tried.
bool MappedDevice::maps_host_memory() const {
  int says = 0;
  const CUresult known = cuda().device_attribute(
      &says, CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, card_->device);
  if (known != CUDA_SUCCESS || says == 0) return false;
  const CUmemAllocationProp host = on_host(node_);
  size_t granularity = 0;
  Handle trial = 0;
  if (cuda().granularity(&granularity, &host, CU_MEM_ALLOC_GRANULARITY_MINIMUM) != CUDA_SUCCESS ||
      granularity == 0 || facts_.granule % granularity != 0 ||
      cuda().create_memory(&trial, facts_.granule, &host, 0) != CUDA_SUCCESS) {
    return false;
  }
  cuda().release_memory(trial);
  return true;
}

void MappedDevice::check_budget(Bytes budget) const {
  const Bytes held = memory_.held();
  const Bytes free = free_bytes();
  if (budget <= held + free) return;
  throw OutOfMemory("the card cannot give a budget of " + text(budget) + " now: of its " +
                        text(facts_.capacity) + " this session holds " + text(held) + " and " +
                        text(free) +
                        " are free. Lower the budget, or free memory of other programs",
                    {.asked = budget, .resident = held});
}

Bytes MappedDevice::host_bytes(Pinning pinning) const {
  const std::lock_guard lock(mutex_);
  Bytes all = 0;
  for (const auto& [start, reserved] : reserved_) {
    if (reserved->host->pinning() == pinning) all += reserved->addresses.range().size;
  }
  return all;
}

std::unique_ptr<HostCopy> MappedDevice::host_copy_for(Bytes size) const {
  const bool must_pin = unpinned_ == Unpinned::refuse;
  if (facts_.reads_over_link) {
    try {
      return pin_mappable(card_->driver, card_->device, node_, size, facts_.unit);
    } catch (const PinRefused&) {
      if (must_pin) throw;
    }
  }
  try {
    return pin_ordinary(card_->driver, size);
  } catch (const PinRefused&) {
    if (must_pin) throw;
  }
  return keep_pageable(card_->driver, size);
}

Range MappedDevice::reserve(Bytes size, Use /*use*/) {
  check_reservation(facts_, size);
  const Current here = current();
  auto made = std::unique_ptr<Reserved>(
      new Reserved{.addresses = {card_->driver, size, facts_.granule}, .host = nullptr});
  const Range range = made->addresses.range();
  made->host = host_copy_for(size);
  for (Bytes from = 0; from < size; from += facts_.unit) {
    made->units.push_back({.range = {range.start + from, std::min(facts_.unit, size - from)},
                           .host = reinterpret_cast<void*>(made->host->start() + from),  // NOLINT
                           .host_memory = made->host->handle(made->units.size())});
  }
  try {
    show(made->units, &Unit::host_memory);
    const std::lock_guard lock(mutex_);
    reserved_.emplace(range.start, nullptr).first->second = std::move(made);
  } catch (...) {
    hide(made->units);
    throw;
  }
  return range;
}

void MappedDevice::release(Range range) noexcept {
  std::unique_ptr<Reserved> gone;
  {
    const std::lock_guard lock(mutex_);
    const auto it = reserved_.find(range.start);
    if (it == reserved_.end()) return;
    gone = std::move(it->second);
    reserved_.erase(it);
  }
  const auto let_go = [&] {
    hide(gone->units);
    give_memory(gone->units);
    gone.reset();
  };
  try {
    const Current here = current();
    finish_uses_over_link(gone->units);
    let_go();
  } catch (const Error&) {
    // The context is gone, and every use with it.
    let_go();
  }
}

MappedDevice::Reserved& MappedDevice::find(Range range) const {
  const std::lock_guard lock(mutex_);
  auto it = reserved_.upper_bound(range.start);
  if (it == reserved_.begin() || !(--it)->second->addresses.range().contains(range)) {
    throw BadConfig("no reserved range holds " + std::to_string(range.size) + " bytes at " +
                    std::to_string(range.start));
  }
  return *it->second;
}

MappedDevice::Units MappedDevice::whole_units(Range range) {
  Reserved& home = find(range);
  const Range all = home.addresses.range();
  const Bytes from = range.start - all.start;
  const bool ends_whole = (range.end() - all.start) % facts_.unit == 0 || range.end() == all.end();
  if (range.size == 0 || from % facts_.unit != 0 || !ends_whole) {
    throw BadConfig("mapped memory moves in whole units of " + text(facts_.unit) + ", not " +
                    std::to_string(range.size) + " bytes at " + std::to_string(from) +
                    " of its range");
  }
  return Units(home.units).subspan(from / facts_.unit, (range.size - 1) / facts_.unit + 1);
}

/// Those that hold any byte of the range.
MappedDevice::Units MappedDevice::units_of(Range range) {
  Reserved& home = find(range);
  const Bytes from = range.start - home.addresses.range().start;
  const Bytes first = from / facts_.unit;
  const Bytes last = (from + std::max<Bytes>(range.size, 1) - 1) / facts_.unit;
  return Units(home.units).subspan(first, last - first + 1);
}

void* MappedDevice::host_copy(Range range) const {
  const Reserved& home = find(range);
  return Range{home.host->start() + (range.start - home.addresses.range().start), 0}.data();
}

void MappedDevice::store(Address to, const void* from, Bytes size) {
  std::memcpy(host_copy({to, size}), from, size);
}

void MappedDevice::load(void* to, Address from, Bytes size) {
  std::memcpy(to, host_copy({from, size}), size);
}

CUresult MappedDevice::unmap(Unit& unit) const noexcept {
  if (unit.shown == 0) return CUDA_SUCCESS;
  const CUresult result = cuda().unmap(unit.range.start, unit.range.size);
  if (result == CUDA_SUCCESS) unit.shown = 0;
  return result;
}

CUresult MappedDevice::map(Unit& unit, Side side) const noexcept {
  const Handle memory = unit.*side;
  if (memory == 0) return CUDA_SUCCESS;
  const CUresult result = cuda().map(unit.range.start, unit.range.size, 0, memory, 0);
  if (result == CUDA_SUCCESS) unit.shown = memory;
  return result;
}

CUresult MappedDevice::open(Range range) const noexcept {
  return cuda().set_access(range.start, range.size, &access_, 1);
}

void MappedDevice::show(Units units, Side side) const {
  for (Unit& unit : units) {
    cuda().check(unmap(unit), "cuMemUnmap");
    cuda().check(map(unit, side), "cuMemMap");
  }
  if (units.front().shown == 0) return;
  const Address start = units.front().range.start;
  cuda().check(open({start, units.back().range.end() - start}), "cuMemSetAccess");
}

void MappedDevice::restore(Units units, Side side) const noexcept {
  for (Unit& unit : units) {
    if (unit.shown != unit.*side && unmap(unit) == CUDA_SUCCESS) map(unit, side);
    if (unit.shown != 0) open(unit.range);
  }
}

void MappedDevice::hide(Units units) const noexcept {
  for (Unit& unit : units) unmap(unit);
}

void MappedDevice::take_memory(Units units) {
  try {
    for (Unit& unit : units) unit.card_memory = memory_.take(unit.range.size);
  } catch (...) {
    give_memory(units);
    throw;
  }
}

void MappedDevice::give_memory(Units units) noexcept {
  for (Unit& unit : units) {
    if (unit.card_memory != 0) memory_.give(unit.range.size, unit.card_memory);
    unit.card_memory = 0;
  }
}

// The end of a stream is later than the use that it was noted for.
void MappedDevice::finish_uses_over_link(Units units) {
  std::vector<Stream> streams;
  for (const Unit& unit : units) {
    streams.insert(streams.end(), unit.users.begin(), unit.users.end());
  }
  std::sort(streams.begin(), streams.end());
  streams.erase(std::unique(streams.begin(), streams.end()), streams.end());
  for (const Stream stream : streams) wait(mark_or_nothing(*this, stream));
  for (Unit& unit : units) unit.users.clear();
}

Fence MappedDevice::bring(Range range, Arrive how, Lane lane, Fences after) {
  const Current here = current();
  const Units units = whole_units(range);
  const auto on_card = [](const Unit& unit) { return unit.card_memory != 0; };
  if (std::any_of(units.begin(), units.end(), on_card)) {
    throw BadConfig("bring of a range that is on the card");
  }
  CUstream stream = lanes_->at(lane);
  auto arrival = std::make_shared<Event>(card_);
  order_lane(stream, after);
  finish_uses_over_link(units);
  take_memory(units);
  try {
    show(units, &Unit::card_memory);
    if (how != Arrive::empty) {
      for (const Unit& unit : units) {
        cuda().check(cuda().copy_to_card(unit.range.start, unit.host, unit.range.size, stream),
                     "cuMemcpyHtoDAsync");
      }
    }
    record(*arrival, stream);
  } catch (...) {
    // Copies that are under way use what is taken back.
    cuda().stream_wait(stream);
    restore(units, &Unit::host_memory);
    give_memory(units);
    throw;
  }
  return arrival;
}

void MappedDevice::copy_back(Units units, CUstream lane) const {
  try {
    for (const Unit& unit : units) {
      cuda().check(cuda().copy_to_host(unit.host, unit.range.start, unit.range.size, lane),
                   "cuMemcpyDtoHAsync");
    }
  } catch (...) {
    cuda().stream_wait(lane);
    throw;
  }
  cuda().check(cuda().stream_wait(lane), "cuStreamSynchronize");
}

Fence MappedDevice::leave(Range range, Leave how, Lane lane, Fences after) {
  const Current here = current();
  const Units units = whole_units(range);
  const auto on_host = [](const Unit& unit) { return unit.card_memory == 0; };
  if (std::any_of(units.begin(), units.end(), on_host)) {
    throw BadConfig("leave of a range that is not on the card");
  }
  for (const Fence& fence : after) wait(fence);
  if (how == Leave::write_back) copy_back(units, lanes_->at(lane));
  try {
    if (how == Leave::pass && facts_.shows_at_a_cost) {
      for (Unit& unit : units) cuda().check(unmap(unit), "cuMemUnmap");
    } else {
      show(units, &Unit::host_memory);
    }
  } catch (...) {
    restore(units, &Unit::card_memory);
    throw;
  }
  give_memory(units);
  return nullptr;
}

bool MappedDevice::reads_in_place(Range range) const {
  return find(range).host->pinning() == Pinning::mappable;
}

void MappedDevice::expose(Range range) {
  const Units units = whole_units(range);
  if (!reads_in_place(range)) {
    throw DeviceFailure(facts_.name + " cannot map the host memory of " + text(range.size) +
                        ", so it does not read it in place");
  }
  const Current here = current();
  for (std::size_t i = 0; i < units.size(); ++i) {
    const bool hidden = units[i].shown == 0 && units[i].card_memory == 0;
    if (hidden) show(units.subspan(i, 1), &Unit::host_memory);
  }
}

void MappedDevice::conceal(Range range) { whole_units(range); }

void MappedDevice::use_over_link(Stream stream, Range range) {
  for (Unit& unit : whole_units(range)) {
    const bool known = std::find(unit.users.begin(), unit.users.end(), stream) != unit.users.end();
    if (!known) unit.users.push_back(stream);
  }
}

Address MappedDevice::host_address(Address address) const {
  const Reserved& home = find({address, 1});
  if (home.host->pinning() == Pinning::none) return 0;
  return home.host->start() + (address - home.addresses.range().start);
}

void MappedDevice::refresh(Stream stream, Range range) {
  const Current here = current();
  for (const Unit& unit : units_of(range)) {
    const Range part = unit.range.common(range);
    cuda().check(cuda().copy_to_card(part.start, host_copy(part), part.size, stream_of(stream)),
                 "cuMemcpyHtoDAsync");
  }
}

void MappedDevice::save(Stream stream, Range range) {
  const Current here = current();
  for (const Unit& unit : units_of(range)) {
    const Range part = unit.range.common(range);
    cuda().check(cuda().copy_to_host(host_copy(part), part.start, part.size, stream_of(stream)),
                 "cuMemcpyDtoHAsync");
  }
}

void MappedDevice::settle(Range range) noexcept {
  try {
    if (reads_in_place(range)) return expose(range);
    for (const Unit& unit : whole_units(range)) {
      if (unit.card_memory == 0) wait(bring(unit.range, Arrive::duplicate, 0, {}));
    }
  } catch (const Error&) {
    // The card has no more room.
  }
}

}  // namespace vramx
