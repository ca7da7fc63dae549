#include "device/frames.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace vramx {

struct Frames::Frame {
  Handle handle = 0;
  Bytes size = 0;
  Tenant* taken = nullptr;        ///< by whom; else it rests
  std::vector<Tenant*> mapped{};  ///< at whose addresses
  std::vector<Fence> after{};     ///< when the last one's uses are over
  std::uint64_t left = 0;         ///< when that one left, by count
};

Frames::Frames(std::shared_ptr<const Driver> driver, CUdevice card,
               std::function<void(const Fence&)> wait)
    : driver_(std::move(driver)), card_(card), wait_(std::move(wait)), memory_(driver_, card) {
  memory_.set_reclaim([this] { return give_back_idle(); });
}

Frames::~Frames() {
  try_again();
  while (!frames_.empty()) {
    try {
      drop(frames_.begin());
    } catch (const Error&) {
      // The context is gone, or the driver is past help: the memory goes with the context.
      give_back(frames_.begin());
    }
  }
  refused_.clear();  // while there is a stock that takes their memory
}

void Frames::map(Tenant& tenant, Frame& frame) {
  map_on_card(*driver_, card_, tenant.range, frame.handle);
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

/// Throws, and it rests, where the driver refuses to unmap it somewhere.
void Frames::drop(std::list<Frame>::iterator frame) {
  for (const Fence& fence : frame->after) wait_(fence);
  while (!frame->mapped.empty()) unmap(*frame->mapped.back());
  give_back(frame);
}

void Frames::give_back(std::list<Frame>::iterator frame) noexcept {
  if (frame->taken == nullptr) memory_.resume(frame->size);
  memory_.give(frame->size, frame->handle);
  frames_.erase(frame);
}

void Frames::try_later(std::function<bool()> unmap) noexcept {
  const std::lock_guard lock(mutex_);
  refused_.push_back(std::move(unmap));
}

/// Returns whether something is unmapped now.
bool Frames::try_again() noexcept {
  return refused_.remove_if([](const auto& unmaps) { return unmaps(); }) > 0;
}

/// Gives back the one that nobody was in for longest.
bool Frames::give_back_idle() {
  const std::lock_guard lock(mutex_);
  if (try_again()) return true;
  auto idle = frames_.end();
  for (auto frame = frames_.begin(); frame != frames_.end(); ++frame) {
    if (frame->taken != nullptr) continue;
    if (idle == frames_.end() || frame->left < idle->left) idle = frame;
  }
  if (idle == frames_.end()) return false;
  drop(idle);
  return true;
}

Frames::Frame* Frames::create(Tenant& tenant) {
  const Bytes size = tenant.range.size;
  const Handle handle = memory_.take(size);
  try {
    return &frames_.emplace_back(Frame{.handle = handle, .size = size, .taken = &tenant});
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
    // A new one while there is room, since it may be that all of a cycle's ranges keep theirs then.
    const bool spare =
        frame != nullptr && !frame->mapped.empty() && memory_.has_room(tenant.range.size);
    if (frame == nullptr || spare) frame = create(tenant);
    try {
      if (tenant.frame != nullptr) unmap(tenant);
      map(tenant, *frame);
    } catch (...) {
      if (frame->taken == &tenant) give_back(place_of(*frame));  // it is new
      throw;
    }
  }
  if (std::exchange(frame->taken, &tenant) == nullptr) memory_.resume(frame->size);
  tenant.there = true;
  return std::exchange(frame->after, {});
}

void Frames::leave(Tenant& tenant, Fences after) {
  const std::lock_guard lock(mutex_);
  Frame& frame = *tenant.frame;
  frame.after.assign(after.begin(), after.end());
  tenant.after = frame.after;
  rest(tenant, frame);
}

/// The tenant is in the frame no more.
void Frames::rest(Tenant& tenant, Frame& frame) noexcept {
  tenant.there = false;
  frame.taken = nullptr;
  frame.left = ++left_;
  memory_.rest(frame.size);
}

std::list<Frames::Frame>::iterator Frames::place_of(const Frame& frame) {
  return std::ranges::find_if(frames_, [&](const Frame& each) { return &each == &frame; });
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
  if (tenant.there) rest(tenant, frame);
  if (frame.taken != nullptr || !frame.mapped.empty()) return;
  try {
    drop(place_of(frame));
  } catch (const Error&) {
    // Its last uses are not known to be over, so it rests.
  }
}

bool Frames::release(Tenant& tenant) noexcept {
  const std::lock_guard lock(mutex_);
  if (tenant.frame == nullptr) return true;
  Frame& frame = *tenant.frame;
  try {
    unmap(tenant);
  } catch (const Error&) {
    if (tenant.there) rest(tenant, frame);
    return false;
  }
  vacate(tenant, frame);
  return true;
}

void Frames::set_spare(Bytes spare) noexcept {
  const std::lock_guard lock(mutex_);
  trim(memory_.set_spare(spare));
}

void Frames::trim(Bytes most) noexcept {
  const std::lock_guard lock(mutex_);
  try_again();
  try {
    while (memory_.held() > most && give_back_idle()) {
    }
  } catch (const Error&) {
    // It rests until its memory is needed.
  }
  memory_.trim(most);
}

}  // namespace vramx
