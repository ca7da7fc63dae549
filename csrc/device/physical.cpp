#include "device/physical.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.hpp"

namespace vramx {

CUmemAllocationProp on_card(CUdevice card) {
  CUmemAllocationProp place{};
  place.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  place.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  place.location.id = card;
  return place;
}

void map_on_card(const Driver& driver, CUdevice card, Range at, Handle memory) {
  driver.check(driver.map(at.start, at.size, 0, memory, 0), "cuMemMap");
  const CUmemAccessDesc access{.location = on_card(card).location,
                               .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  const CUresult result = driver.set_access(at.start, at.size, &access, 1);
  if (result == CUDA_SUCCESS) return;
  driver.unmap(at.start, at.size);
  driver.check(result, "cuMemSetAccess");
}

Addresses::Addresses(std::shared_ptr<const Driver> driver, Bytes size, Bytes alignment)
    : driver_(std::move(driver)) {
  CUdeviceptr start = 0;
  driver_->check(driver_->reserve_addresses(&start, size, alignment, 0, 0), "cuMemAddressReserve");
  range_ = {start, size};
}

Addresses::~Addresses() { driver_->free_addresses(range_.start, range_.size); }

CardMemory::CardMemory(std::shared_ptr<const Driver> driver, CUdevice card)
    : driver_(std::move(driver)), place_(on_card(card)) {}

CardMemory::~CardMemory() { shrink(0); }

// With the lock held, or nobody else left.
void CardMemory::shrink(Bytes most) noexcept {
  while (held_ > most && !idle_.empty()) {
    const auto largest = std::prev(idle_.end());
    driver_->release_memory(largest->second.back());
    held_ -= largest->first;
    largest->second.pop_back();
    if (largest->second.empty()) idle_.erase(largest);
  }
}

void CardMemory::trim(Bytes most) noexcept {
  const std::lock_guard lock(mutex_);
  shrink(most);
  peak_ = std::max(in_use_, std::min(peak_, most - std::min(most, spare_)));
}

Bytes CardMemory::held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

Handle CardMemory::create(Bytes size) {
  Handle handle = 0;
  CUresult result = driver_->create_memory(&handle, size, &place_, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY && held_ > in_use_) {
    shrink(0);
    result = driver_->create_memory(&handle, size, &place_, 0);
  }
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    size_t free = 0;
    size_t total = 0;
    driver_->memory_info(&free, &total);
    throw OutOfMemory("the card refused " + text(size) + ": vramx holds " + text(held_) +
                          " of its memory and " + text(free) +
                          " are free. Lower the budget, or free memory of other programs",
                      {.asked = size, .resident = held_});
  }
  driver_->check(result, "cuMemCreate");
  held_ += size;
  return handle;
}

// What is asked to give back memory calls give.
void CardMemory::make_room(std::unique_lock<std::mutex>& lock, Bytes size) {
  for (;;) {
    const Bytes most = std::max(peak_, in_use_ + size) + spare_;
    if (held_ + size > most) shrink(most - size);
    if (held_ + size <= most) return;
    lock.unlock();
    const bool reclaimed = reclaim_();
    lock.lock();
    if (!reclaimed) return;
  }
}

Handle CardMemory::take(Bytes size) {
  std::unique_lock lock(mutex_);
  if (!idle_.contains(size)) make_room(lock, size);
  Handle handle = 0;
  if (const auto same = idle_.find(size); same != idle_.end()) {
    handle = same->second.back();
    same->second.pop_back();
    if (same->second.empty()) idle_.erase(same);
  } else {
    handle = create(size);
  }
  in_use_ += size;
  peak_ = std::max(peak_, in_use_);
  return handle;
}

Bytes CardMemory::set_spare(Bytes spare) noexcept {
  const std::lock_guard lock(mutex_);
  spare_ = spare;
  peak_ = in_use_;
  return peak_ + spare_;
}

void CardMemory::rest(Bytes size) noexcept {
  const std::lock_guard lock(mutex_);
  in_use_ -= size;
}

void CardMemory::resume(Bytes size) noexcept {
  const std::lock_guard lock(mutex_);
  in_use_ += size;
  peak_ = std::max(peak_, in_use_);
}

bool CardMemory::has_room(Bytes size) const {
  const std::lock_guard lock(mutex_);
  return held_ + size <= peak_ + spare_;
}

void CardMemory::give(Bytes size, Handle handle) noexcept {
  const std::lock_guard lock(mutex_);
  in_use_ -= size;
  try {
    idle_[size].push_back(handle);
  } catch (const std::bad_alloc&) {
    driver_->release_memory(handle);
    held_ -= size;
  }
}

}  // namespace vramx
