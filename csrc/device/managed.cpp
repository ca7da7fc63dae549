#include "device/managed.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "base/error.hpp"

namespace vramx {

namespace {

std::atomic<Bytes> limit{std::numeric_limits<Bytes>::max()};
std::atomic<Bytes> held{0};

void count(Bytes size) {
  const Bytes before = held.fetch_add(size);
  const Bytes allowed = limit.load();
  if (before + size > allowed) {
    held.fetch_sub(size);
    throw OutOfMemory("VRAMX_MANAGED_LIMIT is reached: " + text(before) + " of " + text(allowed) +
                          " managed memory are held and " + text(size) +
                          " more were asked for. Raise the limit or manage less",
                      {.asked = size, .budget = allowed, .resident = before});
  }
}

}  // namespace

Bytes set_managed_limit(Bytes allowed) { return limit.exchange(allowed); }
Bytes managed_bytes() { return held.load(); }

ManagedDevice::ManagedDevice(const std::string& driver_path, int ordinal)
    : CudaDevice(driver_path, ordinal,
                 {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
                  "has no concurrent managed access here (it is absent on Windows, WSL and cards "
                  "before Pascal), so memory cannot be oversubscribed"}) {
  facts_.kind = "managed";
  carrying_ = lanes_.get();
  latest_.resize(facts_.lanes);
  // Seen on an H200: NVML's free did not rise by a byte after 4 GiB had left, and a further GiB
  // that came took new memory.
  facts_.keeps_what_leaves = true;
}

const CudaDevice::Lanes& ManagedDevice::carrying_lanes() {
  std::call_once(first_carried_, [this] {
    try {
      apart_ = std::make_unique<Lanes>(card_->another(), facts_.lanes);
      carrying_ = apart_.get();
    } catch (const Error& error) {
      const std::lock_guard lock(mutex_);
      lacks_context_ = error.what();
    }
  });
  return *carrying_.load();
}

std::string ManagedDevice::lacks_context() const {
  const std::lock_guard lock(mutex_);
  return lacks_context_;
}

// Times of two contexts cannot be compared, so the program's waits for the lane.
Fence ManagedDevice::lane_clock(Lane lane) {
  const Lanes* carrying = carrying_.load();
  if (carrying != lanes_.get()) {
    const auto end = std::make_shared<Event>(carrying->card);
    record(*end, carrying->at(lane));
    const Fence after = end;
    order_lane(lanes_->at(lane), {&after, 1});
  }
  return CudaDevice::lane_clock(lane);
}

void ManagedDevice::advise(Range range, CUmem_advise advice, CUdevice where) const {
  cuda().check(cuda().advise(range.start, range.size, advice, where), "cuMemAdvise");
}

Range ManagedDevice::reserve(Bytes size, Use use) {
  check_reservation(facts_, size);
  const Current here = current();
  count(size);
  CUdeviceptr start = 0;
  try {
    cuda().check(cuda().allocate_managed(&start, size, CU_MEM_ATTACH_GLOBAL), "cuMemAllocManaged");
    const Range range{start, size};
    if (range.start % facts_.granule != 0) {
      throw DeviceFailure("cuMemAllocManaged gave an address that is not 2 MiB-aligned");
    }
    advise(range, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU);
    if (use == Use::scratch) {
      advise(range, CU_MEM_ADVISE_SET_ACCESSED_BY, card_->device);
      const std::lock_guard lock(mutex_);
      scratch_.push_back(range);
    }
    return range;
  } catch (...) {
    if (start != 0) cuda().free(start);
    held.fetch_sub(size);
    throw;
  }
}

std::vector<Fence> ManagedDevice::populating(Range range) {
  std::vector<Fence> under_way;
  const std::lock_guard lock(mutex_);
  std::erase_if(populating_, [&](const auto& each) {
    if (!each.first.overlaps(range)) return false;
    under_way.push_back(each.second);
    return true;
  });
  return under_way;
}

void ManagedDevice::release(Range range) noexcept {
  try {
    for (const Fence& fence : populating(range)) wait(fence);
    const Current here = current();
    cuda().free(range.start);
  } catch (const Error&) {
    // The context is gone, and the memory with it.
  }
  held.fetch_sub(range.size);
  const std::lock_guard lock(mutex_);
  std::erase_if(scratch_, [&](const Range& each) { return each.start == range.start; });
}

void ManagedDevice::store(Address to, const void* from, Bytes size) {
  std::memcpy(Range{to, size}.data(), from, size);
}

void ManagedDevice::load(void* to, Address from, Bytes size) {
  std::memcpy(to, Range{from, size}.data(), size);
}

Fence ManagedDevice::bring(Range range, Arrive how, Lane lane, Fences after) {
  const Lanes& lanes = how == Arrive::empty ? *lanes_ : carrying_lanes();
  const Current here(cuda(), lanes.card->context);
  CUstream stream = lanes.at(lane);
  std::vector<Fence> before = populating(range);
  {
    const std::lock_guard lock(mutex_);
    before.push_back(latest_.at(lane));
  }
  auto arrival = std::make_shared<Event>(lanes.card);
  order_lane(stream, after);
  order_lane(stream, before);
  if (how == Arrive::duplicate) advise(range, CU_MEM_ADVISE_SET_READ_MOSTLY, card_->device);
  try {
    cuda().check(cuda().prefetch(range.start, range.size, card_->device, stream),
                 "cuMemPrefetchAsync");
    record(*arrival, stream);
  } catch (...) {
    if (how != Arrive::duplicate) cuda().prefetch(range.start, range.size, CU_DEVICE_CPU, stream);
    cuda().stream_wait(stream);  // advice has no stream: what comes after it would stay
    cuda().advise(range.start, range.size, CU_MEM_ADVISE_UNSET_READ_MOSTLY, card_->device);
    throw;
  }
  const std::lock_guard lock(mutex_);
  latest_[lane] = arrival;
  return arrival;
}

Fence ManagedDevice::leave(Range range, Leave how, Lane lane, Fences after) {
  const Lanes& lanes = how == Leave::discard ? *lanes_ : carrying_lanes();
  const Current here(cuda(), lanes.card->context);
  // Advice has no stream: it takes hold at once, so the last use must be over.
  for (const Fence& fence : after) wait(fence);
  if (how != Leave::drop) {
    const auto gone = std::make_shared<Event>(lanes.card);
    CUstream stream = lanes.at(lane);
    if (how != Leave::discard || !discard(range, stream)) {
      cuda().check(cuda().prefetch(range.start, range.size, CU_DEVICE_CPU, stream),
                   "cuMemPrefetchAsync");
    }
    try {
      record(*gone, stream);
      wait(gone);
    } catch (...) {
      cuda().prefetch(range.start, range.size, card_->device, stream);
      throw;
    }
  }
  advise(range, CU_MEM_ADVISE_UNSET_READ_MOSTLY, card_->device);
  return nullptr;
}

/// Whether the driver can let go of bytes. A thirtieth of the time that they take to the host,
/// where nobody needs them (measured: 4 ms a GiB); CUDA 13's drivers do.
bool ManagedDevice::discard(Range range, CUstream stream) const {
  if (cuda().discard == nullptr) return false;
  CUdeviceptr start = range.start;
  std::size_t size = range.size;
  const CUresult result = cuda().discard(&start, &size, 1, 0, stream);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return false;
  cuda().check(result, "cuMemDiscardBatchAsync");
  return true;
}

void ManagedDevice::expose(Range range) {
  const Current here = current();
  // Pages that nobody touched yet are populated on the host first: the card's own first touch of
  // them would fault at a twentieth of the link.
  const auto populated = std::make_shared<Event>(card_);
  cuda().check(cuda().prefetch(range.start, range.size, CU_DEVICE_CPU, lanes_->at(0)),
               "cuMemPrefetchAsync");
  record(*populated, lanes_->at(0));
  {
    const std::lock_guard lock(mutex_);
    populating_.emplace_back(range, populated);
  }
  advise(range, CU_MEM_ADVISE_SET_ACCESSED_BY, card_->device);
}

void ManagedDevice::conceal(Range range) {
  {
    const std::lock_guard lock(mutex_);
    const bool for_good = std::any_of(scratch_.begin(), scratch_.end(),
                                      [&](const Range& each) { return each.contains(range); });
    if (for_good) return;
  }
  const Current here = current();
  advise(range, CU_MEM_ADVISE_UNSET_ACCESSED_BY, card_->device);
}

void ManagedDevice::use_over_link(Stream /*stream*/, Range /*range*/) {}

// Managed memory is readable wherever it is.
void ManagedDevice::settle(Range /*range*/) noexcept {}

}  // namespace vramx
