// The host's time, in seconds since some moment.
#pragma once

#include <chrono>

namespace vramx {

inline double host_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace vramx
