#include "device/mapped.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "base/pages.hpp"
#include "device/mapped_packing.hpp"
#include "device/mapped_parts.hpp"
#include "forms/packing_kernels.hpp"

namespace vramx {

MappedStore::MappedStore(std::shared_ptr<CudaCard> card, Bytes unit, MappedOptions options)
    : CudaStore(std::move(card),
                {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                 "has no virtual memory management here, which backend=\"mapped\" needs",
                 CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, "use backend=\"managed\""}),
      options_(options),
      frames_(std::make_unique<Frames>(
          context()->driver, context()->device,
          [card = card_.get()](const Fence& fence) { card->wait(fence); })) {
  const Current here = current();
  const CUmemAllocationProp place = on_card(context()->device);
  size_t granularity = 0;
  cuda().check(cuda().granularity(&granularity, &place, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
               "cuMemGetAllocationGranularity");
  traits_.granule = round_up(traits_.granule, granularity);
  if (unit == 0 || unit % traits_.granule != 0) {
    throw BadConfig("the unit of mapped memory is a multiple of " + text(traits_.granule) + " on " +
                    name() + ", not " + std::to_string(unit) + " bytes");
  }
  traits_.unit = unit;
  traits_.keeps_raw = options_.keeps_raw;
  traits_.reads_over_link = traits_.host_addresses =
      options_.keeps_raw &&
      card_->attribute(CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM) != 0;
  if (!packing_kernels().ptx.empty()) packing_ = std::make_unique<MappedPacking>(*this, unit);
  if (!packing_ && !options_.keeps_raw) {
    throw BadConfig("this build of vramx cannot pack weights (" +
                    std::string(packing_kernels().origin) +
                    "), so the host keeps raw ones: use host=\"raw+packed\"");
  }
}

MappedStore::~MappedStore() {
  packing_.reset();
  context()->give_back([&] { frames_.reset(); });  // which know what is mapped where
}

Packing* MappedStore::packing() { return packing_.get(); }

void MappedStore::check_budget(Bytes budget) const {
  const Bytes held = frames_->memory().held();
  const Bytes free = card_->free_bytes();
  if (budget <= held + free) return;
  throw OutOfMemory("the card cannot give a budget of " + text(budget) + " now: of its " +
                        text(card_->facts().capacity) + " this session holds " + text(held) +
                        " and " + text(free) +
                        " are free. Lower the budget, or free memory of other programs",
                    {.asked = budget, .resident = held});
}

Range MappedStore::reserve(Bytes size, Purpose purpose) {
  check_reservation(traits_, size);
  const Current here = current();
  auto made = std::unique_ptr<Reserved>(
      new Reserved{.addresses = {context()->driver, size, traits_.granule}, .host = nullptr});
  const Range range = made->addresses.range();
  if (!confines(purpose)) made->host = host_copy_for(size);
  if (!options_.keeps_raw && made->host) {
    made->idle = map_no_pages(size);
    if (!made->idle) {
      throw OutOfMemory("the system refused " + text(size) + " of addresses", {.asked = size});
    }
  }
  made->units.reserve((size - 1) / traits_.unit + 1);
  for (Bytes from = 0; from < size; from += traits_.unit) {
    Unit& unit = made->units.emplace_back();
    unit.range = {range.start + from, std::min(traits_.unit, size - from)};
    if (made->host) unit.host = Range{made->host->start() + from, 0}.data();
  }
  const std::lock_guard lock(mutex_);
  reserved_.emplace(range.start, nullptr).first->second = std::move(made);
  return range;
}

void MappedStore::release(Range range) noexcept {
  std::shared_ptr<Reserved> gone;
  {
    const std::lock_guard lock(mutex_);
    const auto it = reserved_.find(range.start);
    if (it == reserved_.end()) return;
    gone = std::move(it->second);
    reserved_.erase(it);
  }
  context()->give_back([&] {
    if (packing_) packing_->release(range);
    for (const Unit& unit : gone->units) {
      if (unit.given_back) given_back_ -= unit.range.size;
      if (unit.unpinnable) unpinnable_ -= unit.range.size;
    }
    const auto unmap = [&frames = *frames_, home = std::move(gone)] {
      bool all = true;
      for (Unit& unit : home->units) all = frames.release(unit) && all;
      return all;
    };
    if (!unmap()) frames_->try_later(unmap);
  });
}

void MappedStore::trim(Bytes most) noexcept {
  context()->give_back([&] { frames_->trim(most); });
}

MappedStore::Reserved& MappedStore::find(Range range) const {
  const std::lock_guard lock(mutex_);
  auto it = reserved_.upper_bound(range.start);
  if (it == reserved_.begin() || !(--it)->second->addresses.range().contains(range)) {
    throw BadConfig("no reserved range holds " + std::to_string(range.size) + " bytes at " +
                    std::to_string(range.start));
  }
  return *it->second;
}

MappedStore::Units MappedStore::units_of(Reserved& home, Range range) const {
  const Bytes from = range.start - home.addresses.range().start;
  const Bytes first = from / traits_.unit;
  const Bytes last = (from + std::max<Bytes>(range.size, 1) - 1) / traits_.unit;
  return Units(home.units).subspan(first, last - first + 1);
}

MappedStore::Units MappedStore::whole_units(Range range) {
  Reserved& home = find(range);
  const Range all = home.addresses.range();
  const Bytes from = range.start - all.start;
  const bool ends_whole = (range.end() - all.start) % traits_.unit == 0 || range.end() == all.end();
  if (range.size == 0 || from % traits_.unit != 0 || !ends_whole) {
    throw BadConfig("mapped memory moves in whole units of " + text(traits_.unit) + ", not " +
                    std::to_string(range.size) + " bytes at " + std::to_string(from) +
                    " of its range");
  }
  return units_of(home, range);
}

void MappedStore::clear(Units units) {
  std::vector<Frames::Tenant*> tenants;
  for (Unit& unit : units) tenants.push_back(&unit);
  frames_->clear(tenants);
}

void MappedStore::copy_to_card(Unit& unit, Range part, CUstream stream) {
  const auto* from = static_cast<char*>(pinned_bytes(unit)) + (part.start - unit.range.start);
  cuda().check(cuda().copy_to_card(part.start, from, part.size, stream), "cuMemcpyHtoDAsync");
}

void MappedStore::copy_to_host(Unit& unit, Range part, CUstream stream) {
  const auto before = part.size == unit.range.size ? Before::overwritten : Before::needed;
  auto* to = static_cast<char*>(pinned_bytes(unit, before)) + (part.start - unit.range.start);
  cuda().check(cuda().copy_to_host(to, part.start, part.size, stream), "cuMemcpyDtoHAsync");
}

Fence MappedStore::fetch(Range range, FetchMode how, Lane lane, Fences after) {
  CUstream stream = card_->lanes().at(lane);
  return arrive(range, stream, after, [&](Range unit) {
    if (how != FetchMode::empty) copy_to_card(units_of(find(unit), unit).front(), unit, stream);
  });
}

Fence MappedStore::arrive(Range range, CUstream stream, Fences after, const Fill& fill) {
  const Current here = current();
  const Units units = whole_units(range);
  if (std::ranges::any_of(units, &Unit::there)) {
    throw BadConfig("fetch of a range that is on the card");
  }
  auto arrival = std::make_shared<CudaEvent>(context());
  card_->order_lane(stream, after);
  auto next = units.begin();
  try {
    for (; next != units.end(); ++next) card_->order_lane(stream, frames_->enter(*next));
    for (const Unit& unit : units) fill(unit.range);
    record(*arrival, stream);
  } catch (...) {
    // Copies that are under way use what is taken back.
    cuda().stream_wait(stream);
    if (next != units.end() && next->there) ++next;  // the order failed
    clear(Units(units.begin(), next));
    throw;
  }
  return arrival;
}

void MappedStore::copy_back(Units units, CUstream lane) {
  try {
    for (Unit& unit : units) copy_to_host(unit, unit.range, lane);
  } catch (...) {
    cuda().stream_wait(lane);
    throw;
  }
  cuda().check(cuda().stream_wait(lane), "cuStreamSynchronize");
}

Fence MappedStore::evict(Range range, EvictMode how, Lane lane, Fences after) {
  const Current here = current();
  const Units units = whole_units(range);
  if (!std::ranges::all_of(units, &Unit::there)) {
    throw BadConfig("evict of a range that is not on the card");
  }
  if (keeps_mapped_ && how == EvictMode::drop) {
    for (Unit& unit : units) frames_->leave(unit, after);
    return nullptr;
  }
  for (const Fence& fence : after) card_->wait(fence);
  if (how == EvictMode::write_back) copy_back(units, card_->lanes().at(lane));
  clear(units);
  return nullptr;
}

bool MappedStore::reads_in_place(Range range) const {
  return traits_.reads_over_link && find(range).pinned();
}

void MappedStore::map_host(Range range) {
  whole_units(range);
  if (reads_in_place(range)) return;
  throw DeviceFailure(name() + " does not read the host memory of " + text(range.size) +
                      " in place" +
                      (traits_.reads_over_link ? ", which the system refused to pin" : ""));
}

void MappedStore::unmap_host(Range range) { whole_units(range); }

void MappedStore::use_over_link(Stream /*stream*/, Range range) { whole_units(range); }

Address MappedStore::host_address(Address address) const {
  const Reserved& home = find({address, 1});
  if (!traits_.reads_over_link || !home.pinned()) return 0;
  return home.host->start() + (address - home.addresses.range().start);
}

Address MappedStore::idle_address(Range range) const {
  Reserved& home = find(range);
  if (!home.idle) return 0;
  if (home.settled && std::ranges::all_of(units_of(home, range), &Unit::there)) return 0;
  return home.idle->start + (range.start - home.addresses.range().start);
}

void MappedStore::refresh(Stream stream, Range range) {
  const Current here = current();
  for (Unit& unit : units_of(find(range), range)) {
    copy_to_card(unit, unit.range.common(range), stream_of(stream));
  }
}

void MappedStore::save(Stream stream, Range range) {
  const Current here = current();
  for (Unit& unit : units_of(find(range), range)) {
    copy_to_host(unit, unit.range.common(range), stream_of(stream));
  }
}

void MappedStore::settle(Range range) noexcept {
  try {
    Reserved& home = find(range);
    if (reads_in_place(range) || !home.host) return;
    home.settled = true;
    for (const Unit& unit : whole_units(range)) {
      if (!unit.there) card_->wait(fetch(unit.range, FetchMode::duplicate, 0, {}));
    }
  } catch (const Error&) {
    // The card has no more room.
  }
}

}  // namespace vramx
