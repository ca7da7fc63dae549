// The simulated card's streams and fences: virtual time, and the order of what is done to bytes.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.hpp"
#include "device/simulated.hpp"
#include "device/simulated_packing.hpp"
#include "device/simulated_parts.hpp"

namespace vramx {

double SimulatedDevice::latest(Fences after) {
  double at = 0;
  for (const Fence& fence : after) {
    if (fence) at = std::max(at, static_cast<const Time&>(*fence).at);
  }
  return at;
}

SimulatedWork::Tickets SimulatedDevice::tickets(Fences after) {
  SimulatedWork::Tickets all;
  for (const Fence& fence : after) {
    if (fence) all.push_back(static_cast<const Time&>(*fence).last);
  }
  return all;
}

SimulatedDevice::Queue& SimulatedDevice::queue(Stream stream) {
  Queue& queue = streams_[stream];
  queue.at = std::max(queue.at, host_now_);
  return queue;
}

/// When bytes are across the link, to the card, that flow from a time on.
double SimulatedDevice::cross(double from, Bytes bytes) {
  link_[0] = std::max(from, link_[0]) + static_cast<double>(bytes) / spec_.link.up;
  moved_in_ += bytes;
  return link_[0];
}

void SimulatedDevice::use_over_link(Stream stream, Range range) {
  const std::lock_guard lock(mutex_);
  Queue& q = queue(stream);
  const double end = cross(q.at + spec_.latency, range.size);
  stalled_ += end - q.at;
  q.at = end;
}

// In the stream's order. Where no kernel waits in the stream the program is as far as that.
void SimulatedDevice::submit(Queue& queue, Range range, std::function<void()> work) {
  const bool at_once = SimulatedWork::done(queue.last);
  queue.last = work_.add({queue.last}, range, std::move(work));
  if (at_once) work_.finish(queue.last);
}

const SimulatedDevice::Chunk& SimulatedDevice::two_copies(Range range) const {
  const Chunk& c = chunk(range);
  if (!c.host_addresses || !c.holds_all(range)) {
    throw BadConfig("refresh and save take what is on the card and has a host address");
  }
  return c;
}

void SimulatedDevice::refresh(Stream stream, Range range) {
  const std::lock_guard lock(mutex_);
  const unsigned char* host = two_copies(range).on_host(range.start);
  Queue& q = queue(stream);
  q.at = link_[0] =
      std::max(q.at + spec_.latency, link_[0]) + static_cast<double>(range.size) / spec_.link.up;
  refreshed_ += range.size;
  submit(q, range, [range, host] { std::memcpy(range.data(), host, range.size); });
}

void SimulatedDevice::save(Stream stream, Range range) {
  const std::lock_guard lock(mutex_);
  unsigned char* host = two_copies(range).on_host(range.start);
  Queue& q = queue(stream);
  q.at = link_[1] =
      std::max(q.at + spec_.latency, link_[1]) + static_cast<double>(range.size) / spec_.link.down;
  saved_ += range.size;
  submit(q, range, [range, host] { std::memcpy(host, range.data(), range.size); });
}

void SimulatedDevice::launch(Stream stream, Range range, std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  Queue& q = queue(stream);
  q.last = work_.add({q.last}, range, std::move(work));
}

void SimulatedDevice::synchronize(Stream stream) {
  const std::lock_guard lock(mutex_);
  work_.finish(queue(stream).last);
}

void SimulatedDevice::synchronize() {
  const std::lock_guard lock(mutex_);
  work_.finish();
}

void SimulatedDevice::order(Stream stream, const Fence& fence) {
  if (!fence) {
    return;
  }
  const std::lock_guard lock(mutex_);
  Queue& q = queue(stream);
  const auto& time = static_cast<const Time&>(*fence);
  if (time.at > q.at) {
    stalled_ += time.at - q.at;
    q.at = time.at;
  }
  if (SimulatedWork::done(q.last)) {
    work_.finish(time.last);
  } else {
    q.last = work_.add({q.last, time.last}, {}, [] {});
  }
  work_.stir();
}

Fence SimulatedDevice::mark(Stream stream) {
  const std::lock_guard lock(mutex_);
  work_.stir();
  const Queue& q = queue(stream);
  return std::make_shared<Time>(q.at, q.last);
}

double SimulatedDevice::seconds(const Fence& from, const Fence& to) const {
  return latest({&to, 1}) - latest({&from, 1});
}

bool SimulatedDevice::reached(const Fence& fence) const noexcept {
  const std::lock_guard lock(mutex_);
  if (!fence) return true;
  const auto& time = static_cast<const Time&>(*fence);
  if (time.at > host_now_) return false;
  work_.finish(time.last);
  return true;
}

void SimulatedDevice::wait(const Fence& fence) {
  if (!fence) {
    return;
  }
  const std::lock_guard lock(mutex_);
  const auto& time = static_cast<const Time&>(*fence);
  work_.finish(time.last);
  host_now_ = std::max(host_now_, time.at);
}

void SimulatedDevice::compute(Stream stream, double seconds) {
  if (!(seconds >= 0)) {
    throw BadConfig("compute takes seconds of zero or more, not " + std::to_string(seconds));
  }
  const std::lock_guard lock(mutex_);
  queue(stream).at += seconds;
}

double SimulatedDevice::now() const {
  const std::lock_guard lock(mutex_);
  double at = host_now_;
  for (const Queue& lane : lanes_) at = std::max(at, lane.at);
  if (packing_) at = std::max(at, packing_->done_at());
  for (const auto& [stream, queue] : streams_) at = std::max(at, queue.at);
  return at;
}

double SimulatedDevice::stalled() const {
  const std::lock_guard lock(mutex_);
  return stalled_;
}

}  // namespace vramx
