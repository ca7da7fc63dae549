// Weights under test that have packed copies.
#pragma once

#include <bit>
#include <cstring>
#include <random>
#include <vector>

#include "device/packing.hpp"
#include "held.hpp"
#include "normal.hpp"

namespace rig {

/// Words of bf16 with a normal distribution: they shrink.
inline std::vector<unsigned char> normal(vramx::Bytes size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<unsigned char> bytes(size);
  for (std::size_t i = 0; i < size; i += 2) {
    const float weight = vramx::testing::normal_weight(random);
    const auto word = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(weight) >> 16);
    std::memcpy(bytes.data() + i, &word, sizeof(word));
  }
  return bytes;
}

/// Some units of weights, whose bytes are on the host. The device makes packed copies.
struct Weights : Held {
  Weights(Rig& rig, vramx::Bytes count, unsigned seed = 1)
      : Held(rig, count * rig.device().traits().unit / rig.device().traits().granule),
        rig(rig),
        packing(*device.packing()),
        size(device.traits().unit),
        bytes(normal(range.size, seed)) {
    store(*this, bytes);
  }

  vramx::Range unit(vramx::Bytes first, vramx::Bytes count = 1) const {
    return {range.start + first * size, count * size};
  }
  vramx::Bytes pack(vramx::Range one) const {
    return packing.pack(one, {{.offset = 0, .size = one.size, .type = vramx::Type::bf16}});
  }
  /// Packs every unit; returns the size of all.
  vramx::Bytes pack() const {
    vramx::Bytes all = 0;
    for (vramx::Bytes at = 0; at < range.size; at += size) all += pack(unit(at / size));
    return all;
  }
  void fetched(vramx::Route& route, vramx::FetchMode how = vramx::FetchMode::duplicate) const {
    device.wait(route.fetch(range, how, 0, {}));
  }
  void evicted(vramx::Route& route, vramx::EvictMode how = vramx::EvictMode::drop) const {
    device.wait(route.evict(range, how, 0, {}));
  }

  /// Whether the card has so much in use, staging memory that was not needed yet included, and
  /// beside what frames keep.
  bool takes(vramx::Bytes bytes) const {
    const vramx::Bytes now = rig.on_card();
    return rig.keeps_frames() || now == bytes || now + packing.staging() == bytes;
  }

  Rig& rig;
  vramx::Packing& packing;
  vramx::Bytes size;  ///< a unit's
  std::vector<unsigned char> bytes;
};

}  // namespace rig
