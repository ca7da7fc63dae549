// The host's time, in seconds since some moment.
#pragma once

#include <chrono>
#include <thread>

namespace vramx {

inline double host_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Returns once something is so, or after a while. A thread that sleeps meanwhile wakes later than
/// most moves take to be issued.
template <class Is>
void stay_awake(double seconds, Is&& is) {
  const double end = host_seconds() + seconds;
  while (!is() && host_seconds() < end) std::this_thread::yield();
}

}  // namespace vramx
