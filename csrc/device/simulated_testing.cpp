// What tests see of the simulated card, and what they make it do.
#include <algorithm>

#include "base/error.hpp"
#include "device/simulated_packing.hpp"
#include "device/simulated_parts.hpp"

namespace vramx {

void SimulatedDevice::injected(Operation operation) {
  auto& left = failing_[static_cast<std::size_t>(operation)];
  if (left == 0 || --left != 0) {
    return;
  }
  static constexpr std::array<const char*, operations> names{"reserve", "fetch", "evict",
                                                             "map_host", "pack"};
  const std::string what = std::string("injected failure of ") +
                           names[static_cast<std::size_t>(operation)] + " on the simulated card";
  if (operation == Operation::reserve) {
    throw OutOfMemory(what, {});
  }
  throw DeviceFailure(what);
}

bool SimulatedDevice::holds(Range range) const {
  const std::lock_guard lock(mutex_);
  return chunk(range).holds_all(range);
}

Bytes SimulatedDevice::peak_on_card() const {
  const std::lock_guard lock(mutex_);
  std::int64_t held = 0;
  std::int64_t peak = 0;
  for (const auto& [at, bytes] : changes_) {
    held += bytes;
    peak = std::max(peak, held);
  }
  return static_cast<Bytes>(std::max(peak, most_on_card_));
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

Bytes SimulatedDevice::refreshed() const {
  const std::lock_guard lock(mutex_);
  return refreshed_;
}

Bytes SimulatedDevice::saved() const {
  const std::lock_guard lock(mutex_);
  return saved_;
}

void SimulatedDevice::fail(Operation operation, std::uint64_t nth) {
  const std::lock_guard lock(mutex_);
  failing_[static_cast<std::size_t>(operation)] = nth;
}

void SimulatedDevice::damage(Address address, std::uint64_t bit) {
  const std::lock_guard lock(mutex_);
  if (!packing_) throw BadConfig("this simulated card packs nothing: give it a rate of unpacking");
  packing_->damage(address, bit);
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
