#include "pool/packer.hpp"

namespace vramx {

Packing pack(const std::vector<Bytes>& sizes, Bytes granule, Bytes largest) {
  Packing packing;
  Bytes end = 0;
  for (const Bytes size : sizes) {
    const Bytes offset = round_up(end, tensor_alignment);
    if (packing.arenas.empty() || offset + size > largest) {
      packing.arenas.push_back(0);
      packing.placements.push_back({packing.arenas.size() - 1, 0});
      end = size;
    } else {
      packing.placements.push_back({packing.arenas.size() - 1, offset});
      end = offset + size;
    }
    packing.arenas.back() = round_up(end, granule);
  }
  return packing;
}

}  // namespace vramx
