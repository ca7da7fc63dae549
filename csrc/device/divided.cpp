#include "device/divided.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace vramx {

DividedDevice::DividedDevice(std::shared_ptr<CudaDevice> weights,
                             std::shared_ptr<CudaDevice> scratch)
    : weights_(std::move(weights)), scratch_(std::move(scratch)), facts_(weights_->facts()) {
  const Facts& other = scratch_->facts();
  if (other.ordinal != facts_.ordinal) {
    throw BadConfig("weights and scratch lie on one card, not on " +
                    std::to_string(facts_.ordinal) + " and " + std::to_string(other.ordinal));
  }
  facts_.granule = std::max(facts_.granule, other.granule);
  latest_.resize(facts_.lanes);
}

CudaDevice& DividedDevice::of(Address address) const {
  const std::lock_guard lock(mutex_);
  const auto it = scratch_ranges_.upper_bound(address);
  const bool is_scratch = it != scratch_ranges_.begin() && std::prev(it)->second.contains(address);
  return is_scratch ? *scratch_ : *weights_;
}

Range DividedDevice::reserve(Bytes size, Use use) {
  check_reservation(facts_, size);
  if (use == Use::weights) return weights_->reserve(size, use);
  const Range range = scratch_->reserve(size, use);
  try {
    const std::lock_guard lock(mutex_);
    scratch_ranges_[range.start] = range;
  } catch (...) {
    scratch_->release(range);
    throw;
  }
  return range;
}

void DividedDevice::release(Range range) noexcept {
  CudaDevice& device = of(range.start);
  {
    // Before it is given back: the other backend may get the same addresses at once.
    const std::lock_guard lock(mutex_);
    scratch_ranges_.erase(range.start);
  }
  device.release(range);
}

void DividedDevice::store(Address to, const void* from, Bytes size) {
  of(to).store(to, from, size);
}

void DividedDevice::load(void* to, Address from, Bytes size) { of(from).load(to, from, size); }

Fence DividedDevice::bring(Range range, Arrive how, Lane lane, Fences after) {
  std::vector<Fence> all(after.begin(), after.end());
  {
    const std::lock_guard lock(mutex_);
    all.push_back(latest_.at(lane));
  }
  const Fence arrival = of(range.start).bring(range, how, lane, all);
  const std::lock_guard lock(mutex_);
  return latest_[lane] = arrival;
}

Fence DividedDevice::leave(Range range, Leave how, Lane lane, Fences after) {
  return of(range.start).leave(range, how, lane, after);
}

void DividedDevice::use_over_link(Stream stream, Range range) {
  of(range.start).use_over_link(stream, range);
}

}  // namespace vramx
