#include "pool/placing.hpp"

namespace vramx {

Placing place(const std::vector<Bytes>& sizes, Bytes granule, Bytes largest) {
  Placing placing;
  Bytes end = 0;
  for (const Bytes size : sizes) {
    const Bytes offset = round_up(end, tensor_alignment);
    if (placing.arenas.empty() || offset + size > largest) {
      placing.arenas.push_back(0);
      placing.placements.push_back({placing.arenas.size() - 1, 0});
      end = size;
    } else {
      placing.placements.push_back({placing.arenas.size() - 1, offset});
      end = offset + size;
    }
    placing.arenas.back() = round_up(end, granule);
  }
  return placing;
}

}  // namespace vramx
