// Tells a forked child from the process that made an object: a CUDA context and native threads do
// not survive a fork.
#pragma once

#include <cstdint>

namespace vramx {

/// A number that differs in every forked child. Costs one load.
std::uint64_t process_generation();

}  // namespace vramx
