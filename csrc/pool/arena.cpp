#include "pool/arena.hpp"

#include "base/error.hpp"
#include "base/fork.hpp"

namespace vramx {

Arena::Arena(std::shared_ptr<Device> device, std::shared_ptr<Residency> residency, Bytes size,
             Purpose purpose, bool dead)
    : device_(std::move(device)),
      memory_(device_->memory(purpose)),
      residency_(std::move(residency)),
      generation_(process_generation()),
      range_(memory_.reserve(size, purpose)) {
  try {
    residency_->adopt(range_, purpose, dead);
  } catch (...) {
    memory_.release(range_);
    throw;
  }
}

Arena::~Arena() {
  // A forked child's copy is not its own to give back.
  if (generation_ != process_generation()) return;
  try {
    residency_->forget(range_, false);
  } catch (const Error&) {
    // A lease still uses it: losing the memory is better than freeing it under that use.
    return;
  }
  memory_.release(range_);
}

}  // namespace vramx
