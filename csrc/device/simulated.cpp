#include "device/simulated.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.hpp"
#include "base/pages.hpp"

namespace vramx {

struct SimulatedDevice::Time final : Mark {
  explicit Time(double seconds) : at(seconds) {}
  double at;
};

struct SimulatedDevice::Chunk {
  Range range;
  Range host;
  std::map<Address, Bytes> on_card{};

  unsigned char* on_host(Address address) const {
    return static_cast<unsigned char*>(host.data()) + (address - range.start);
  }

  /// The parts of `part` that are on the card.
  std::vector<Range> held(Range part) const {
    std::vector<Range> found;
    auto it = on_card.upper_bound(part.start);
    if (it != on_card.begin()) --it;
    for (; it != on_card.end() && it->first < part.end(); ++it) {
      const Address start = std::max(it->first, part.start);
      const Address end = std::min(it->first + it->second, part.end());
      if (start < end) found.push_back({start, end - start});
    }
    return found;
  }

  bool holds_all(Range part) const {
    Bytes total = 0;
    for (const Range& each : held(part)) total += each.size;
    return total == part.size;
  }

  void take_off(Range part) {
    for (const Range& each : held(part)) {
      const auto it = std::prev(on_card.upper_bound(each.start));
      const Range whole{it->first, it->second};
      on_card.erase(it);
      if (whole.start < each.start) on_card[whole.start] = each.start - whole.start;
      if (each.end() < whole.end()) on_card[each.end()] = whole.end() - each.end();
    }
  }
};

namespace {

constexpr Bytes page = 4 * KiB;
constexpr unsigned most_lanes = 64;

double seconds_of(const Fence& fence, const auto& time_of) { return fence ? time_of(*fence) : 0.0; }

}  // namespace

SimulatedDevice::SimulatedDevice(SimulatedSpec spec) : spec_(spec) {
  if (spec.capacity == 0 || !(spec.to_card > 0) || !(spec.to_host > 0) || !(spec.latency >= 0) ||
      spec.lanes == 0 || spec.lanes > most_lanes || spec.granule == 0 || spec.granule % page != 0) {
    throw BadConfig(
        "a simulated card needs a capacity and link rates above zero, a latency of zero "
        "or more, 1 to " +
        std::to_string(most_lanes) + " lanes and a granule in multiples of " + text(page));
  }
  lanes_.assign(spec.lanes, 0.0);
  facts_ = Facts{.name = "simulated card of " + text(spec.capacity),
                 .kind = "simulated",
                 .ordinal = 0,
                 .uuid = "",
                 .capacity = spec.capacity,
                 .granule = spec.granule,
                 .unit = spec.granule,
                 .lanes = spec.lanes,
                 .reads_over_link = spec.reads_over_link,
                 .asynchronous = false,
                 .to_card = spec.to_card,
                 .to_host = spec.to_host};
}

SimulatedDevice::~SimulatedDevice() {
  for (auto& [start, chunk] : chunks_) {
    unmap_pages(chunk.range);
    unmap_pages(chunk.host);
  }
}

Bytes SimulatedDevice::free_bytes() const {
  const std::lock_guard lock(mutex_);
  return spec_.capacity - on_card_;
}

void SimulatedDevice::injected(Operation operation) {
  auto& left = failing_[static_cast<std::size_t>(operation)];
  if (left == 0 || --left != 0) {
    return;
  }
  static constexpr std::array<const char*, operations> names{"reserve", "bring", "leave", "expose"};
  const std::string what = std::string("injected failure of ") +
                           names[static_cast<std::size_t>(operation)] + " on the simulated card";
  if (operation == Operation::reserve) {
    throw OutOfMemory(what, {});
  }
  throw DeviceFailure(what);
}

SimulatedDevice::Chunk& SimulatedDevice::placed(Range range) {
  if (range.start % spec_.granule != 0 || range.size % spec_.granule != 0 || range.size == 0) {
    throw BadConfig("the simulated card moves multiples of " + text(spec_.granule) + ", not " +
                    std::to_string(range.size) + " bytes at " + std::to_string(range.start));
  }
  return chunk(range);
}

SimulatedDevice::Chunk& SimulatedDevice::chunk(Range range) {
  auto it = chunks_.upper_bound(range.start);
  if (it == chunks_.begin() || !std::prev(it)->second.range.contains(range)) {
    throw BadConfig("the simulated card has no reserved range that holds " + text(range.size) +
                    " at " + std::to_string(range.start));
  }
  return std::prev(it)->second;
}

Range SimulatedDevice::reserve(Bytes size, Use /*use*/) {
  const std::lock_guard lock(mutex_);
  injected(Operation::reserve);
  check_reservation(facts_, size);
  if (host_used_ + size > spec_.host_memory) {
    throw OutOfMemory("the simulated host has " + text(spec_.host_memory - host_used_) +
                          " left of " + text(spec_.host_memory) + "; " + text(size) +
                          " were asked for",
                      {.asked = size});
  }
  // Addresses are aligned to the granule by reserving one granule more and trimming.
  const Bytes mapped = size + spec_.granule;
  const auto raw = map_pages(mapped);
  const auto host = map_pages(size);
  if (!raw || !host) {
    if (raw) unmap_pages(*raw);
    if (host) unmap_pages(*host);
    throw OutOfMemory("the host refused " + text(2 * size) + " for the simulated card",
                      {.asked = size});
  }
  const Range range{round_up(raw->start, spec_.granule), size};
  if (range.start > raw->start) unmap_pages({raw->start, range.start - raw->start});
  if (raw->end() > range.end()) unmap_pages({range.end(), raw->end() - range.end()});
  std::memset(range.data(), poison, size);
  chunks_[range.start] = Chunk{.range = range, .host = *host};
  host_used_ += size;
  return range;
}

void SimulatedDevice::release(Range range) noexcept {
  const std::lock_guard lock(mutex_);
  const auto it = chunks_.find(range.start);
  if (it == chunks_.end()) {
    return;
  }
  for (const auto& [at, size] : it->second.on_card) {
    account(host_now_, -static_cast<std::int64_t>(size));
  }
  unmap_pages(it->second.range);
  unmap_pages(it->second.host);
  host_used_ -= it->second.range.size;
  chunks_.erase(it);
}

void SimulatedDevice::store(Address to, const void* from, Bytes size) {
  unsigned char* at = nullptr;
  {
    const std::lock_guard lock(mutex_);
    at = chunk({to, size}).on_host(to);
  }
  std::memcpy(at, from, size);
}

void SimulatedDevice::load(void* to, Address from, Bytes size) {
  const unsigned char* at = nullptr;
  {
    const std::lock_guard lock(mutex_);
    at = chunk({from, size}).on_host(from);
  }
  std::memcpy(to, at, size);
}

double SimulatedDevice::latest(Fences after) {
  double at = 0;
  for (const auto& fence : after) {
    at = std::max(
        at, seconds_of(fence, [](const Mark& mark) { return static_cast<const Time&>(mark).at; }));
  }
  return at;
}

void SimulatedDevice::account(double at, std::int64_t bytes) {
  changes_[at] += bytes;
  on_card_ = static_cast<Bytes>(static_cast<std::int64_t>(on_card_) + bytes);
}

Fence SimulatedDevice::bring(Range range, Arrive how, Lane lane, Fences after) {
  std::unique_lock lock(mutex_);
  gate_.wait(lock, [&] { return !held_; });
  injected(Operation::bring);
  Chunk& c = placed(range);
  if (!c.held(range).empty()) {
    throw BadConfig("bring of a range that is on the card");
  }
  if (on_card_ + range.size > spec_.capacity) {
    throw OutOfMemory("the simulated card holds " + text(on_card_) + " of " + text(spec_.capacity) +
                          "; " + text(range.size) + " do not fit",
                      {.asked = range.size, .budget = spec_.capacity, .resident = on_card_});
  }
  const double start = std::max({lanes_.at(lane), host_now_, latest(after)});
  double end = start;
  if (how != Arrive::empty) {
    std::memcpy(range.data(), c.on_host(range.start), range.size);
    const double flowing = std::max(start + spec_.latency, link_[0]);
    end = flowing + static_cast<double>(range.size) / spec_.to_card;
    link_[0] = end;
    moved_in_ += range.size;
  }
  lanes_[lane] = end;  // of nothing too: what comes next on the lane counts on its room
  if (how != Arrive::duplicate) {
    std::memset(c.on_host(range.start), poison, range.size);
  }
  c.on_card[range.start] = range.size;
  account(start, static_cast<std::int64_t>(range.size));
  return std::make_shared<Time>(end);
}

Fence SimulatedDevice::leave(Range range, Leave how, Lane lane, Fences after) {
  const std::lock_guard lock(mutex_);
  injected(Operation::leave);
  Chunk& c = placed(range);
  if (!c.holds_all(range)) {
    throw BadConfig("leave of a range that is not on the card");
  }
  double end = std::max({lanes_.at(lane), host_now_, latest(after)});
  if (how == Leave::write_back) {
    std::memcpy(c.on_host(range.start), range.data(), range.size);
    const double flowing = std::max(end + spec_.latency, link_[1]);
    end = flowing + static_cast<double>(range.size) / spec_.to_host;
    lanes_[lane] = link_[1] = end;
    moved_out_ += range.size;
  } else if (how == Leave::discard) {
    std::memset(c.on_host(range.start), poison, range.size);
  } else if (spec_.check_drops &&
             std::memcmp(c.on_host(range.start), range.data(), range.size) != 0) {
    throw UnreportedWrite("bytes changed on the card in " + text(range.size) + " at " +
                          std::to_string(range.start) +
                          " that nobody reported; call session.written(x) after writing x");
  }
  std::memset(range.data(), poison, range.size);
  c.take_off(range);
  account(end, -static_cast<std::int64_t>(range.size));
  return std::make_shared<Time>(end);
}

void SimulatedDevice::expose(Range range) {
  const std::lock_guard lock(mutex_);
  injected(Operation::expose);
  if (!spec_.reads_over_link) {
    throw DeviceFailure("this simulated card does not read host memory over the link");
  }
  std::memcpy(range.data(), placed(range).on_host(range.start), range.size);
}

void SimulatedDevice::conceal(Range range) {
  const std::lock_guard lock(mutex_);
  std::memcpy(placed(range).on_host(range.start), range.data(), range.size);
  std::memset(range.data(), poison, range.size);
}

double& SimulatedDevice::cursor(Stream stream) {
  auto& at = streams_[stream];
  at = std::max(at, host_now_);
  return at;
}

void SimulatedDevice::use_over_link(Stream stream, Range range) {
  const std::lock_guard lock(mutex_);
  auto& at = cursor(stream);
  const double end =
      std::max(at + spec_.latency, link_[0]) + static_cast<double>(range.size) / spec_.to_card;
  stalled_ += end - at;
  at = link_[0] = end;
  moved_in_ += range.size;
}

void SimulatedDevice::order(Stream stream, const Fence& fence) {
  if (!fence) {
    return;
  }
  const std::lock_guard lock(mutex_);
  auto& at = cursor(stream);
  const double arrived = static_cast<const Time&>(*fence).at;
  if (arrived > at) {
    stalled_ += arrived - at;
    at = arrived;
  }
}

Fence SimulatedDevice::mark(Stream stream) {
  const std::lock_guard lock(mutex_);
  return std::make_shared<Time>(cursor(stream));
}

double SimulatedDevice::seconds(const Fence& from, const Fence& to) const {
  return latest({&to, 1}) - latest({&from, 1});
}

bool SimulatedDevice::reached(const Fence& fence) const noexcept {
  const std::lock_guard lock(mutex_);
  return !fence || static_cast<const Time&>(*fence).at <= host_now_;
}

void SimulatedDevice::wait(const Fence& fence) {
  if (!fence) {
    return;
  }
  const std::lock_guard lock(mutex_);
  host_now_ = std::max(host_now_, static_cast<const Time&>(*fence).at);
}

void SimulatedDevice::settle(Range range) noexcept {
  const std::lock_guard lock(mutex_);
  const auto it = chunks_.upper_bound(range.start);
  if (it == chunks_.begin() || !std::prev(it)->second.range.contains(range)) return;
  const Chunk& c = std::prev(it)->second;
  // What is on the card is newer there.
  Address at = range.start;
  const auto settle_until = [&](Address end) {
    if (at < end) std::memcpy(Range{at, end - at}.data(), c.on_host(at), end - at);
  };
  for (const Range& each : c.held(range)) {
    settle_until(each.start);
    at = each.end();
  }
  settle_until(range.end());
}

void SimulatedDevice::compute(Stream stream, double seconds) {
  if (!(seconds >= 0)) {
    throw BadConfig("compute takes seconds of zero or more, not " + std::to_string(seconds));
  }
  const std::lock_guard lock(mutex_);
  cursor(stream) += seconds;
}

double SimulatedDevice::now() const {
  const std::lock_guard lock(mutex_);
  double at = std::max(host_now_, *std::max_element(lanes_.begin(), lanes_.end()));
  for (const auto& [stream, cursor] : streams_) {
    at = std::max(at, cursor);
  }
  return at;
}

double SimulatedDevice::stalled() const {
  const std::lock_guard lock(mutex_);
  return stalled_;
}

Bytes SimulatedDevice::peak_on_card() const {
  const std::lock_guard lock(mutex_);
  std::int64_t held = 0;
  std::int64_t peak = 0;
  for (const auto& [at, bytes] : changes_) {
    held += bytes;
    peak = std::max(peak, held);
  }
  return static_cast<Bytes>(peak);
}

Bytes SimulatedDevice::on_card() const {
  const std::lock_guard lock(mutex_);
  return on_card_;
}

Bytes SimulatedDevice::moved_in() const {
  const std::lock_guard lock(mutex_);
  return moved_in_;
}

Bytes SimulatedDevice::moved_out() const {
  const std::lock_guard lock(mutex_);
  return moved_out_;
}

void SimulatedDevice::fail(Operation operation, std::uint64_t nth) {
  const std::lock_guard lock(mutex_);
  failing_[static_cast<std::size_t>(operation)] = nth;
}

void SimulatedDevice::hold() {
  const std::lock_guard lock(mutex_);
  held_ = true;
}

void SimulatedDevice::let_go() {
  {
    const std::lock_guard lock(mutex_);
    held_ = false;
  }
  gate_.notify_all();
}

}  // namespace vramx
