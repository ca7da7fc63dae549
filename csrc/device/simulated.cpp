#include "device/simulated.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "base/pages.hpp"
#include "device/simulated_packing.hpp"
#include "device/simulated_parts.hpp"

namespace vramx {

namespace {

constexpr Bytes page = 4 * KiB;
constexpr unsigned most_lanes = 64;

}  // namespace

SimulatedDevice::SimulatedDevice(SimulatedSpec spec) : spec_(spec), work_(spec.moments) {
  if (spec.capacity == 0 || !(spec.link.up > 0) || !(spec.link.down > 0) || !(spec.latency >= 0) ||
      spec.lanes == 0 || spec.lanes > most_lanes || spec.granule == 0 || spec.granule % page != 0 ||
      !(spec.unpack_rate >= 0)) {
    throw BadConfig(
        "a simulated card needs a capacity and link rates above zero, a latency and a rate of "
        "unpacking of zero or more, 1 to " +
        std::to_string(most_lanes) + " lanes and a granule in multiples of " + text(page));
  }
  lanes_.resize(spec.lanes);
  facts_ = {.name = "simulated card of " + text(spec.capacity),
            .kind = "simulated",
            .ordinal = 0,
            .uuid = "",
            .capacity = spec.capacity,
            .lanes = spec.lanes,
            .computes_on_host = true,
            .virtual_clock = true,
            .slow_moves = false};
  traits_ = {.granule = spec.granule,
             .unit = spec.granule,
             .reads_over_link = spec.reads_over_link && spec.keeps_raw,
             .host_addresses = spec.host_addresses && spec.reads_over_link && spec.keeps_raw,
             .keeps_raw = spec.keeps_raw};
  if (spec.unpack_rate > 0) packing_ = std::make_unique<SimulatedPacking>(*this);
  if (!packing_ && !spec.keeps_raw) {
    throw BadConfig(
        "a simulated card packs weights where it has an unpack_rate, and else the host keeps raw "
        "ones: give it one, or use host=\"raw+packed\"");
  }
}

SimulatedDevice::~SimulatedDevice() {
  for (auto& [start, chunk] : chunks_) chunk.unmap();
}

Bytes SimulatedDevice::free_bytes() const {
  const std::lock_guard lock(mutex_);
  return spec_.capacity - on_card_;
}

SimulatedDevice::Chunk& SimulatedDevice::placed(Range range) {
  if (range.start % spec_.granule != 0 || range.size % spec_.granule != 0 || range.size == 0) {
    throw BadConfig("the simulated card moves multiples of " + text(spec_.granule) + ", not " +
                    std::to_string(range.size) + " bytes at " + std::to_string(range.start));
  }
  return chunk(range);
}

const SimulatedDevice::Chunk& SimulatedDevice::chunk(Range range) const {
  auto it = chunks_.upper_bound(range.start);
  if (it == chunks_.begin() || !std::prev(it)->second.range.contains(range)) {
    throw BadConfig("the simulated card has no reserved range that holds " + text(range.size) +
                    " at " + std::to_string(range.start));
  }
  return std::prev(it)->second;
}

SimulatedDevice::Chunk& SimulatedDevice::chunk(Range range) {
  return const_cast<Chunk&>(std::as_const(*this).chunk(range));  // NOLINT
}

Packing* SimulatedDevice::packing() { return packing_.get(); }

Range SimulatedDevice::reserve(Bytes size, Purpose purpose) {
  const std::lock_guard lock(mutex_);
  injected(Operation::reserve);
  check_reservation(traits_, size);
  check_host_room(size);
  // Addresses are aligned to the granule by reserving one granule more and trimming.
  const Bytes mapped = size + spec_.granule;
  const auto raw = map_pages(mapped);
  const auto host = map_pages(size);
  const bool is_idle_elsewhere = !spec_.keeps_raw && purpose == Purpose::weights;
  const auto idle = is_idle_elsewhere ? map_pages(size) : std::nullopt;
  if (!raw || !host || (is_idle_elsewhere && !idle)) {
    for (const auto& each : {raw, host, idle}) {
      if (each) unmap_pages(*each);
    }
    throw OutOfMemory("the host refused " + text(2 * size) + " for the simulated card",
                      {.asked = size});
  }
  const Range range{round_up(raw->start, spec_.granule), size};
  if (range.start > raw->start) unmap_pages({raw->start, range.start - raw->start});
  if (raw->end() > range.end()) unmap_pages({range.end(), raw->end() - range.end()});
  std::memset(range.data(), poison, size);
  if (idle) std::memset(idle->data(), poison, size);
  chunks_[range.start] =
      Chunk{.range = range,
            .host = *host,
            .host_addresses = traits_.host_addresses && purpose == Purpose::weights,
            .confined = confines(purpose),
            .idle = idle};
  host_used_ += size;
  return range;
}

void SimulatedDevice::release(Range range) noexcept {
  const std::lock_guard lock(mutex_);
  const auto it = chunks_.find(range.start);
  if (it == chunks_.end()) {
    return;
  }
  work_.finish(it->second.range);
  work_.finish(it->second.host);
  for (const auto& [at, size] : it->second.on_card) {
    account(host_now_, -static_cast<std::int64_t>(size));
    carry(-static_cast<std::int64_t>(size));
  }
  if (packing_) packing_->release(it->second.range);
  it->second.unmap();
  host_used_ -= it->second.range.size;
  chunks_.erase(it);
}

unsigned char* SimulatedDevice::copy_in_use(Range range) {
  const Chunk& c = chunk(range);
  if (!c.confined) return raw_bytes(c, range);
  if (!c.holds_all(range)) throw BadConfig("store and load of a range that is not on the card");
  return static_cast<unsigned char*>(range.data());
}

/// Where the host bytes of a range lie, which are there from now on.
unsigned char* SimulatedDevice::raw_bytes(const Chunk& chunk, Range range) {
  if (packing_) packing_->make_raw(range);
  return chunk.on_host(range.start);
}

/// Whether the card's bytes of a range are what the host has of them.
bool SimulatedDevice::holds_on_host(const Chunk& chunk, Range range) const {
  if (!packing_ || packing_->given_back() == 0) {
    return std::memcmp(chunk.on_host(range.start), range.data(), range.size) == 0;
  }
  std::vector<unsigned char> raw(chunk.on_host(range.start), chunk.on_host(range.end()));
  packing_->unpack_alone(range, raw.data());
  return std::memcmp(raw.data(), range.data(), range.size) == 0;
}

void SimulatedDevice::store(Address to, const void* from, Bytes size) {
  unsigned char* at = nullptr;
  {
    const std::lock_guard lock(mutex_);
    work_.finish(Range{to, size});
    at = copy_in_use({to, size});
  }
  std::memcpy(at, from, size);
}

void SimulatedDevice::load(void* to, Address from, Bytes size) {
  const unsigned char* at = nullptr;
  {
    const std::lock_guard lock(mutex_);
    work_.finish(Range{from, size});
    const Chunk& c = chunk({from, size});
    if (packing_ && packing_->given_back() > 0 && !c.confined) {
      std::memcpy(to, c.on_host(from), size);
      packing_->unpack_alone({from, size}, to);
      return;
    }
    at = copy_in_use({from, size});
  }
  std::memcpy(to, at, size);
}

void SimulatedDevice::account(double at, std::int64_t bytes) {
  changes_[at] += bytes;
  on_card_ += static_cast<Bytes>(bytes);
}

void SimulatedDevice::carry(std::int64_t bytes) {
  carried_on_card_ += bytes;
  most_on_card_ = std::max(most_on_card_, carried_on_card_);
}

std::unique_lock<std::mutex> SimulatedDevice::begin_fetch() {
  std::unique_lock lock(mutex_);
  gate_.wait(lock, [&] { return !held_; });
  injected(Operation::fetch);
  return lock;
}

void SimulatedDevice::check_room(Bytes more) const {
  if (on_card_ + more > spec_.capacity) {
    throw OutOfMemory("the simulated card holds " + text(on_card_) + " of " + text(spec_.capacity) +
                          "; " + text(more) + " do not fit",
                      {.asked = more, .budget = spec_.capacity, .resident = on_card_});
  }
}

void SimulatedDevice::check_host_room(Bytes more) const {
  if (host_used_ + more > spec_.host_memory) {
    throw OutOfMemory("the simulated host has " + text(spec_.host_memory - host_used_) +
                          " left of " + text(spec_.host_memory) + "; " + text(more) +
                          " were asked for",
                      {.asked = more});
  }
}

SimulatedDevice::Chunk& SimulatedDevice::absent(Range range) {
  Chunk& c = placed(range);
  if (!c.held(range).empty()) {
    throw BadConfig("fetch of a range that is on the card");
  }
  check_room(range.size);
  return c;
}

Fence SimulatedDevice::fetch(Range range, FetchMode how, Lane lane, Fences after) {
  const auto lock = begin_fetch();
  Chunk& c = absent(range);
  Queue& queue = lanes_.at(lane);
  const double start = std::max({queue.at, host_now_, latest(after)});
  const double end = how == FetchMode::empty ? start : cross(start + spec_.latency, range.size);
  queue.at = end;  // of nothing too: what comes next on the lane counts on its room
  c.on_card[range.start] = range.size;
  account(start, static_cast<std::int64_t>(range.size));
  SimulatedWork::Tickets first = tickets(after);
  first.push_back(queue.last);
  unsigned char* host = how == FetchMode::empty ? c.on_host(range.start) : raw_bytes(c, range);
  const bool host_is_gone = how != FetchMode::duplicate && !c.host_addresses;
  queue.last = work_.add(first, range, [this, range, how, host, host_is_gone] {
    carry(static_cast<std::int64_t>(range.size));
    if (how != FetchMode::empty) std::memcpy(range.data(), host, range.size);
    if (host_is_gone) std::memset(host, poison, range.size);
  });
  return std::make_shared<Time>(end, queue.last);
}

Fence SimulatedDevice::evict(Range range, EvictMode how, Lane lane, Fences after) {
  const std::lock_guard lock(mutex_);
  injected(Operation::evict);
  Chunk& c = placed(range);
  if (!c.holds_all(range)) {
    throw BadConfig("evict of a range that is not on the card");
  }
  Queue& queue = lanes_.at(lane);
  SimulatedWork::Tickets first = tickets(after);
  first.push_back(queue.last);
  unsigned char* host = how == EvictMode::write_back ? raw_bytes(c, range) : c.on_host(range.start);
  if (how == EvictMode::drop && spec_.check_drops && !c.host_addresses) {
    for (const auto& each : first) work_.finish(each);
    if (!holds_on_host(c, range)) {
      throw UnreportedWrite("bytes changed on the card in " + text(range.size) + " at " +
                            std::to_string(range.start) +
                            " that nobody reported; call session.written(x) after writing x");
    }
  }
  double end = std::max({queue.at, host_now_, latest(after)});
  if (how == EvictMode::write_back) {
    const double flowing = std::max(end + spec_.latency, link_[1]);
    end = flowing + static_cast<double>(range.size) / spec_.link.down;
    queue.at = link_[1] = end;
    moved_out_ += range.size;
  }
  c.take_off(range);
  account(end, -static_cast<std::int64_t>(range.size));
  const auto gone = work_.add(first, range, [this, range, how, host] {
    carry(-static_cast<std::int64_t>(range.size));
    if (how == EvictMode::write_back) std::memcpy(host, range.data(), range.size);
    if (how == EvictMode::discard) std::memset(host, poison, range.size);
    std::memset(range.data(), poison, range.size);
  });
  if (how == EvictMode::write_back) {
    queue.last = gone;
    if (c.host_addresses) work_.finish(gone);  // the program may use it there from now on
  }
  return std::make_shared<Time>(end, gone);
}

void SimulatedDevice::map_host(Range range) {
  const std::lock_guard lock(mutex_);
  injected(Operation::map_host);
  if (!traits_.reads_over_link) {
    throw DeviceFailure("this simulated card does not read host memory over the link");
  }
  const Chunk& c = placed(range);
  work_.finish(range);
  if (!c.host_addresses) std::memcpy(range.data(), c.on_host(range.start), range.size);
}

void SimulatedDevice::unmap_host(Range range) {
  const std::lock_guard lock(mutex_);
  const Chunk& c = placed(range);
  if (c.host_addresses) return;
  work_.finish(range);  // one page has one truth: kernels that use it there go on with it
  std::memcpy(c.on_host(range.start), range.data(), range.size);
  std::memset(range.data(), poison, range.size);
}

Address SimulatedDevice::host_address(Address address) const {
  const std::lock_guard lock(mutex_);
  const Chunk& c = chunk({address, 1});
  return c.host_addresses ? c.host.start + (address - c.range.start) : 0;
}

Address SimulatedDevice::idle_address(Range range) const {
  const std::lock_guard lock(mutex_);
  const Chunk& c = chunk(range);
  return c.idle && !c.settled ? c.idle->start + (range.start - c.range.start) : 0;
}

Bytes SimulatedDevice::given_back_bytes() const {
  const std::lock_guard lock(mutex_);
  return packing_ ? packing_->given_back() : 0;
}

void SimulatedDevice::settle(Range range) noexcept {
  const std::lock_guard lock(mutex_);
  const auto it = chunks_.upper_bound(range.start);
  if (it == chunks_.begin() || !std::prev(it)->second.range.contains(range)) return;
  Chunk& c = std::prev(it)->second;
  work_.finish(range);
  if (c.host_addresses) return;
  c.settled = true;
  // What is on the card is newer there.
  Address at = range.start;
  const auto settle_until = [&](Address end) {
    if (at < end) std::memcpy(Range{at, end - at}.data(), raw_bytes(c, {at, end - at}), end - at);
  };
  for (const Range& each : c.held(range)) {
    settle_until(each.start);
    at = each.end();
  }
  settle_until(range.end());
}

}  // namespace vramx
