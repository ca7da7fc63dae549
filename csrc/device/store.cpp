#include "device/store.hpp"

#include "base/error.hpp"

namespace vramx {

void Store::refresh(Stream /*stream*/, Range /*range*/) {
  throw BadConfig("host copies of this memory have no addresses of their own");
}

void Store::save(Stream stream, Range range) { refresh(stream, range); }

void check_reservation(const Traits& traits, Bytes size) {
  if (size > 0 && size % traits.granule == 0) return;
  throw BadConfig("reserve takes a multiple of " + text(traits.granule) + ", not " +
                  std::to_string(size) + " bytes");
}

}  // namespace vramx
