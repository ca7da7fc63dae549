#include "device/frames.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace vramx {

struct Frames::Frame {
  Handle handle = 0;
  Bytes size = 0;
  Tenant* taken = nullptr;        ///< by whom
  std::vector<Tenant*> mapped{};  ///< at whose addresses
  std::vector<Fence> after{};     ///< when the last one's uses are over
  std::uint64_t left = 0;         ///< when that one left, by count
};

Frames::Frames(std::shared_ptr<const Driver> driver, CUdevice card,
               std::function<void(const Fence&)> wait)
    : driver_(std::move(driver)),
      access_{.location = on_card(card).location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE},
      wait_(std::move(wait)),
      memory_(driver_, card) {}

Frames::~Frames() {
  while (!frames_.empty()) drop(frames_.begin());
}

void Frames::map(Tenant& tenant, Frame& frame) {
  const Range at = tenant.range;
  driver_->check(driver_->map(at.start, at.size, 0, frame.handle, 0), "cuMemMap");
  const CUresult result = driver_->set_access(at.start, at.size, &access_, 1);
  if (result != CUDA_SUCCESS) {
    driver_->unmap(at.start, at.size);
    driver_->check(result, "cuMemSetAccess");
  }
  frame.mapped.push_back(&tenant);
  tenant.frame = &frame;
}

void Frames::unmap(Tenant& tenant) {
  for (const Fence& fence : tenant.after) wait_(fence);
  tenant.after.clear();
  driver_->check(driver_->unmap(tenant.range.start, tenant.range.size), "cuMemUnmap");
  std::erase(tenant.frame->mapped, &tenant);
  tenant.frame = nullptr;
}

/// That of fewest tenants, of which the one that was left last: its own are back latest.
Frames::Frame* Frames::idle_frame(Bytes size) {
  Frame* found = nullptr;
  for (Frame& frame : frames_) {
    if (frame.taken != nullptr || frame.size != size) continue;
    const bool better = found == nullptr || frame.mapped.size() < found->mapped.size() ||
                        (frame.mapped.size() == found->mapped.size() && frame.left > found->left);
    if (better) found = &frame;
  }
  return found;
}

void Frames::drop(std::list<Frame>::iterator frame) noexcept {
  try {
    for (const Fence& fence : frame->after) wait_(fence);
    while (!frame->mapped.empty()) unmap(*frame->mapped.back());
  } catch (const Error&) {
    // The context is gone, or the driver is past help: the memory goes with the context.
    for (Tenant* const tenant : frame->mapped) tenant->frame = nullptr;
  }
  memory_.give(frame->size, frame->handle);
  frames_.erase(frame);
}

/// Gives back one that nobody is in.
bool Frames::give_back_idle(Bytes other_than) {
  const auto idle = std::ranges::find_if(frames_, [&](const Frame& frame) {
    return frame.taken == nullptr && frame.size != other_than;
  });
  if (idle == frames_.end()) return false;
  drop(idle);
  return true;
}

Frames::Frame* Frames::create(Bytes size) {
  while (give_back_idle(size)) {
  }
  const Handle handle = memory_.take(size);
  try {
    return &frames_.emplace_back(Frame{.handle = handle, .size = size});
  } catch (...) {
    memory_.give(size, handle);
    throw;
  }
}

std::vector<Fence> Frames::enter(Tenant& tenant) {
  const std::lock_guard lock(mutex_);
  Frame* frame = tenant.frame;
  const bool own = frame != nullptr && frame->taken == nullptr;
  if (!own) {
    frame = idle_frame(tenant.range.size);
    // One more than were ever taken lets a cycle's ranges find frames that all of them keep.
    const bool spare = frame != nullptr && !frame->mapped.empty() && frames_.size() <= most_taken_;
    if (frame == nullptr) {
      frame = create(tenant.range.size);
    } else if (spare) {
      try {
        frame = create(tenant.range.size);
      } catch (const OutOfMemory&) {
        // The idle one serves.
      }
    }
    if (tenant.frame != nullptr) unmap(tenant);
    try {
      map(tenant, *frame);
    } catch (...) {
      if (frame->mapped.empty()) {
        drop(std::ranges::find_if(frames_, [&](const Frame& each) { return &each == frame; }));
      }
      throw;
    }
  }
  frame->taken = &tenant;
  tenant.there = true;
  most_taken_ = std::max(most_taken_, ++taken_);
  return std::exchange(frame->after, {});
}

void Frames::leave(Tenant& tenant, Fences after) {
  const std::lock_guard lock(mutex_);
  Frame& frame = *tenant.frame;
  frame.after.assign(after.begin(), after.end());
  tenant.after = frame.after;
  frame.taken = nullptr;
  frame.left = ++left_;
  tenant.there = false;
  --taken_;
}

void Frames::clear(const std::vector<Tenant*>& tenants) {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<Tenant*, Frame*>> cleared;
  try {
    for (Tenant* const tenant : tenants) {
      if (tenant->frame == nullptr) continue;
      Frame* const frame = tenant->frame;
      unmap(*tenant);
      cleared.emplace_back(tenant, frame);
    }
  } catch (...) {
    for (const auto& [tenant, frame] : cleared) map(*tenant, *frame);
    throw;
  }
  for (const auto& [tenant, frame] : cleared) vacate(*tenant, *frame);
}

/// A tenant at whose addresses a frame is not mapped any more.
void Frames::vacate(Tenant& tenant, Frame& frame) noexcept {
  if (std::exchange(tenant.there, false)) {
    frame.taken = nullptr;
    frame.left = ++left_;
    --taken_;
  }
  if (frame.taken != nullptr || !frame.mapped.empty()) return;
  drop(std::ranges::find_if(frames_, [&](const Frame& each) { return &each == &frame; }));
}

void Frames::release(Tenant& tenant) noexcept {
  const std::lock_guard lock(mutex_);
  if (tenant.frame == nullptr) return;
  Frame& frame = *tenant.frame;
  try {
    unmap(tenant);
  } catch (const Error&) {
    // The context is gone, and what was mapped with it.
    std::erase(frame.mapped, &tenant);
    tenant.frame = nullptr;
  }
  vacate(tenant, frame);
}

void Frames::trim(Bytes most) noexcept {
  const std::lock_guard lock(mutex_);
  while (memory_.held() > most && give_back_idle(0)) {
  }
  memory_.trim(most);
}

}  // namespace vramx
