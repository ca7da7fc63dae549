#include "residency/journal.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.hpp"
#include "base/host_clock.hpp"
#include "device/packing.hpp"

namespace vramx {

namespace {

// Looked at with each new event: more than one, so that none wait for ever.
constexpr int resolved_at_once = 4;

}  // namespace

Journal::Journal(Device& device, Stream stream, std::size_t most_events, Log start)
    : streams_(device.streams()),
      most_events_(most_events),
      virtual_clock_(device.facts().virtual_clock),
      origin_(device.streams().clock(stream)),
      resident_(start.resident.begin(), start.resident.end()),
      log_(std::move(start)) {
  for (const HeldPacked& copy : log_.held) held_[copy.serial] = copy.bytes;
  if (!virtual_clock_) streams_.wait(origin_);
  began_ = host_seconds();
  log_.virtual_clock = virtual_clock_;
  Store& weights = device.memory(Purpose::weights);
  Route& link = weights.link();
  log_.lane_times = virtual_clock_ || link.lane_clock(0) != nullptr;
  log_.link = link.rates();
  if (const Packing* packing = weights.packing()) log_.link.unpack = packing->rate();
  log_.lanes = device.facts().lanes;
}

double Journal::now() const { return virtual_clock_ ? latest_ : since_start(host_seconds()); }

/// Whether the fence's time, where there is one, is known now.
bool Journal::read(Fence& fence, double& time, bool wait) {
  if (!fence) return true;
  if (!virtual_clock_ && !streams_.reached(fence)) {
    if (!wait) return false;
    streams_.wait(fence);
  }
  time = streams_.seconds(origin_, fence);
  fence = nullptr;
  return true;
}

// A time that cannot be had stays as it was known to the host.
bool Journal::resolve(Event& event, bool wait) noexcept {
  const bool at_once = event.to && event.from == event.to;
  try {
    if (!at_once && !read(event.from, event.began, wait)) return false;
    if (!read(event.to, event.ended, wait)) return false;
    if (at_once) event.began = event.ended;
  } catch (const Error&) {
    event.to = nullptr;
  }
  event.from = nullptr;
  const bool on_stream = event.kind == Event::Kind::stalled || event.kind == Event::Kind::released;
  if (on_stream && event.ended > latest_) latest_ = event.ended;
  return true;
}

void Journal::correct_start(std::uint64_t block, bool resident) {
  if (resident) {
    resident_.insert(block);
  } else {
    resident_.erase(block);
  }
}

void Journal::correct_start(HeldPacked copy, bool held) {
  if (held) {
    held_[copy.serial] = copy.bytes;
  } else {
    held_.erase(copy.serial);
  }
}

void Journal::add(Event event) {
  if (virtual_clock_) resolve(event, false);
  events_.push_back(std::move(event));
  if (events_.size() > most_events_) {
    lose(events_.front());
    events_.pop_front();
    if (resolved_ > 0) --resolved_;
  }
  for (int i = 0; i < resolved_at_once && resolved_ < events_.size(); ++i) {
    if (!resolve(events_[resolved_], false)) return;
    ++resolved_;
  }
}

void Journal::lose(const Event& event) {
  ++log_.lost;
  if (event.kind == Event::Kind::fetched) resident_.insert(event.block);
  if (event.kind == Event::Kind::evicted || event.kind == Event::Kind::forgotten) {
    resident_.erase(event.block);
  }
  if (event.kind == Event::Kind::held) held_[event.block] = event.bytes;
  if (event.kind == Event::Kind::let_go) held_.erase(event.block);
  if (event.kind == Event::Kind::reserved) log_.reserved = event.bytes;
  if (event.kind == Event::Kind::budget) log_.budget = event.bytes;
}

Log Journal::finish() {
  for (std::size_t i = resolved_; i < events_.size(); ++i) resolve(events_[i], true);
  log_.seconds = now();
  log_.resident.assign(resident_.begin(), resident_.end());
  log_.held.clear();
  for (const auto& [serial, bytes] : held_) log_.held.push_back({serial, bytes});
  log_.events.assign(std::make_move_iterator(events_.begin()),
                     std::make_move_iterator(events_.end()));
  return std::move(log_);
}

}  // namespace vramx
