// Where tensors lie in arenas: in order of use, one after the other, so that what is used together
// lies in the same blocks.
#pragma once

#include <vector>

#include "base/bytes.hpp"

namespace vramx {

struct Placement {
  std::size_t arena = 0;
  Bytes offset = 0;
};

struct Placing {
  std::vector<Placement> placements;  ///< one a size
  std::vector<Bytes> arenas;          ///< the size of each, a multiple of the granule
};

/// The alignment that torch's kernels may assume of an allocation.
inline constexpr Bytes tensor_alignment = 512;

/// Places `sizes` in order in arenas of at most `largest` bytes, or of one tensor where that is
/// larger. Splitting into arenas lets memory be given back piece by piece.
Placing place(const std::vector<Bytes>& sizes, Bytes granule, Bytes largest);

}  // namespace vramx
