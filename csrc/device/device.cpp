#include "device/device.hpp"

#include "base/error.hpp"

namespace vramx {

Fence mark_or_nothing(Device& device, Stream stream) noexcept {
  try {
    return device.mark(stream);
  } catch (const Error&) {
    return nullptr;
  }
}

Fence clock_or_nothing(Device& device, Stream stream) noexcept {
  try {
    return device.clock(stream);
  } catch (const Error&) {
    return nullptr;
  }
}

void Device::refresh(Stream /*stream*/, Range /*range*/) {
  throw BadConfig("host copies of " + facts().kind + " memory have no addresses of their own");
}

void Device::save(Stream stream, Range range) { refresh(stream, range); }

void check_reservation(const Facts& facts, Bytes size) {
  if (size > 0 && size % facts.granule == 0) return;
  throw BadConfig("reserve takes a multiple of " + text(facts.granule) + ", not " +
                  std::to_string(size) + " bytes");
}

}  // namespace vramx
