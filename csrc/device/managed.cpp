#include "device/managed.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <utility>

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

ManagedStore::ManagedStore(std::shared_ptr<CudaCard> card)
    : CudaStore(
          std::move(card),
          {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
           "has no concurrent managed access here (it is absent on Windows, WSL, most virtual "
           "GPUs and cards before Pascal), which backend=\"managed\" needs",
           CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
           "use backend=\"mapped\", where managed modules may exceed the card and what the "
           "program allocates itself stays on it"}) {
  carrying_ = &card_->lanes();
  // Seen on an H200: NVML's free did not rise by a byte after 4 GiB had left, and a further GiB
  // that came took new memory.
  traits_.keeps_what_leaves = true;
}

const CudaLanes& ManagedStore::carrying_lanes() {
  std::call_once(first_carried_, [this] {
    try {
      apart_ = std::make_unique<CudaLanes>(context()->another(), card_->facts().lanes);
      carrying_ = apart_.get();
    } catch (const Error& error) {
      const std::lock_guard lock(mutex_);
      lacks_context_ = error.what();
    }
  });
  return *carrying_.load();
}

std::string ManagedStore::holds_up_launches() const {
  const std::lock_guard lock(mutex_);
  return lacks_context_;
}

// Times of two contexts cannot be compared, so the program's waits for the lane.
Fence ManagedStore::lane_clock(Lane lane) {
  const CudaLanes* carrying = carrying_.load();
  if (carrying != &card_->lanes()) {
    const auto end = std::make_shared<CudaEvent>(carrying->context);
    record(*end, carrying->at(lane));
    const Fence after = end;
    card_->order_lane(card_->lanes().at(lane), {&after, 1});
  }
  return CudaStore::lane_clock(lane);
}

void ManagedStore::advise(Range range, CUmem_advise advice, CUdevice where) const {
  cuda().check(cuda().advise(range.start, range.size, advice, where), "cuMemAdvise");
}

Range ManagedStore::reserve(Bytes size, Purpose purpose) {
  check_reservation(traits_, size);
  const Current here = current();
  count(size);
  CUdeviceptr start = 0;
  try {
    cuda().check(cuda().allocate_managed(&start, size, CU_MEM_ATTACH_GLOBAL), "cuMemAllocManaged");
    const Range range{start, size};
    if (range.start % traits_.granule != 0) {
      throw DeviceFailure("cuMemAllocManaged gave an address that is not 2 MiB-aligned");
    }
    advise(range, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU);
    if (purpose == Purpose::scratch) {
      advise(range, CU_MEM_ADVISE_SET_ACCESSED_BY, context()->device);
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

std::vector<Fence> ManagedStore::populating(Range range) {
  std::vector<Fence> under_way;
  const std::lock_guard lock(mutex_);
  std::erase_if(populating_, [&](const auto& each) {
    if (!each.first.overlaps(range)) return false;
    under_way.push_back(each.second);
    return true;
  });
  return under_way;
}

void ManagedStore::release(Range range) noexcept {
  try {
    for (const Fence& fence : populating(range)) card_->wait(fence);
    const Current here = current();
    cuda().free(range.start);
  } catch (const Error&) {
    // The context is gone, and the memory with it.
  }
  held.fetch_sub(range.size);
  const std::lock_guard lock(mutex_);
  std::erase_if(scratch_, [&](const Range& each) { return each.start == range.start; });
}

void ManagedStore::store(Address to, const void* from, Bytes size) {
  std::memcpy(Range{to, size}.data(), from, size);
}

void ManagedStore::load(void* to, Address from, Bytes size) {
  std::memcpy(to, Range{from, size}.data(), size);
}

Fence ManagedStore::fetch(Range range, FetchMode how, Lane lane, Fences after) {
  const CudaLanes& lanes = how == FetchMode::empty ? card_->lanes() : carrying_lanes();
  const Current here = lanes.context->current();
  CUstream stream = lanes.at(lane);
  const std::vector<Fence> before = populating(range);
  auto arrival = std::make_shared<CudaEvent>(lanes.context);
  card_->order_lane(stream, after);
  card_->order_lane(stream, before);
  if (how == FetchMode::duplicate) advise(range, CU_MEM_ADVISE_SET_READ_MOSTLY, context()->device);
  try {
    cuda().check(cuda().prefetch(range.start, range.size, context()->device, stream),
                 "cuMemPrefetchAsync");
    record(*arrival, stream);
  } catch (...) {
    if (how != FetchMode::duplicate)
      cuda().prefetch(range.start, range.size, CU_DEVICE_CPU, stream);
    cuda().stream_wait(stream);  // advice has no stream: what comes after it would stay
    cuda().advise(range.start, range.size, CU_MEM_ADVISE_UNSET_READ_MOSTLY, context()->device);
    throw;
  }
  return arrival;
}

Fence ManagedStore::evict(Range range, EvictMode how, Lane lane, Fences after) {
  const CudaLanes& lanes = how == EvictMode::discard ? card_->lanes() : carrying_lanes();
  const Current here = lanes.context->current();
  // Advice has no stream: it takes hold at once, so the last use must be over.
  for (const Fence& fence : after) card_->wait(fence);
  if (how != EvictMode::drop) {
    const auto gone = std::make_shared<CudaEvent>(lanes.context);
    CUstream stream = lanes.at(lane);
    if (how != EvictMode::discard || !discard(range, stream)) {
      cuda().check(cuda().prefetch(range.start, range.size, CU_DEVICE_CPU, stream),
                   "cuMemPrefetchAsync");
    }
    try {
      record(*gone, stream);
      card_->wait(gone);
    } catch (...) {
      cuda().prefetch(range.start, range.size, context()->device, stream);
      throw;
    }
  }
  advise(range, CU_MEM_ADVISE_UNSET_READ_MOSTLY, context()->device);
  return nullptr;
}

/// Whether the driver can let go of bytes. A thirtieth of the time that they take to the host,
/// where nobody needs them (measured: 4 ms a GiB); CUDA 13's drivers do.
bool ManagedStore::discard(Range range, CUstream stream) const {
  if (cuda().discard == nullptr) return false;
  CUdeviceptr start = range.start;
  std::size_t size = range.size;
  const CUresult result = cuda().discard(&start, &size, 1, 0, stream);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return false;
  cuda().check(result, "cuMemDiscardBatchAsync");
  return true;
}

void ManagedStore::map_host(Range range) {
  const Current here = current();
  // Pages that nobody touched yet are populated on the host first: the card's own first touch of
  // them would fault at a twentieth of the link.
  const auto populated = std::make_shared<CudaEvent>(context());
  cuda().check(cuda().prefetch(range.start, range.size, CU_DEVICE_CPU, card_->lanes().at(0)),
               "cuMemPrefetchAsync");
  record(*populated, card_->lanes().at(0));
  {
    const std::lock_guard lock(mutex_);
    populating_.emplace_back(range, populated);
  }
  advise(range, CU_MEM_ADVISE_SET_ACCESSED_BY, context()->device);
}

void ManagedStore::unmap_host(Range range) {
  {
    const std::lock_guard lock(mutex_);
    const bool for_good = std::any_of(scratch_.begin(), scratch_.end(),
                                      [&](const Range& each) { return each.contains(range); });
    if (for_good) return;
  }
  const Current here = current();
  advise(range, CU_MEM_ADVISE_UNSET_ACCESSED_BY, context()->device);
}

void ManagedStore::use_over_link(Stream /*stream*/, Range /*range*/) {}

// Managed memory is readable wherever it is.
void ManagedStore::settle(Range /*range*/) noexcept {}

}  // namespace vramx
