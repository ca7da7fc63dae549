// A reserved range under test, and what is done with all of it.
#pragma once

#include <cstring>
#include <vector>

#include "rig.hpp"

namespace rig {

/// A reserved range, given back with its scope.
struct Held {
  Held(Rig& rig, vramx::Bytes granules, vramx::Purpose purpose = vramx::Purpose::weights)
      : device(rig.device()), range(device.reserve(granules * device.traits().granule, purpose)) {}
  ~Held() { device.release(range); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  vramx::Range part(vramx::Bytes first, vramx::Bytes count) const {
    const vramx::Bytes granule = device.traits().granule;
    return {range.start + first * granule, count * granule};
  }

  const Flat device;
  vramx::Range range;
};

inline std::vector<unsigned char> pattern(vramx::Bytes size, unsigned seed) {
  std::vector<unsigned char> bytes(size);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<unsigned char>((i * 31 + i / 4096 + seed) % 251);
  }
  return bytes;
}

inline void store(const Held& held, const std::vector<unsigned char>& bytes) {
  held.device.store(held.range.start, bytes.data(), bytes.size());
}

inline std::vector<unsigned char> loaded(const Held& held) {
  std::vector<unsigned char> bytes(held.range.size);
  held.device.load(bytes.data(), held.range.start, bytes.size());
  return bytes;
}

inline bool reads(const Held& held, vramx::Range range, const unsigned char* bytes) {
  return std::memcmp(seen(held.device, range).data(), bytes, range.size) == 0;
}

inline bool reads(const Held& held, const std::vector<unsigned char>& bytes) {
  return reads(held, held.range, bytes.data());
}

inline void fetched(const Held& held, vramx::FetchMode how) {
  held.device.wait(held.device.fetch(held.range, how, 0, {}));
}

inline void evicted(const Held& held, vramx::EvictMode how) {
  held.device.wait(held.device.evict(held.range, how, 0, {}));
}

}  // namespace rig
