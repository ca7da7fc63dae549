// The card's kernels that pack and unpack, compiled as the library was built.
#pragma once

#include <string_view>

namespace vramx {

struct PackingKernels {
  std::string_view ptx;     ///< ends with a zero byte; empty where they were not compiled
  std::string_view origin;  ///< by what they were compiled and for what, or why they were not
};

PackingKernels packing_kernels();

}  // namespace vramx
