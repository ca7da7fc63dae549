// Waiting until something that a lock guards has changed.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "base/host_clock.hpp"

namespace vramx {

class Changes {
 public:
  /// Something has changed. With the lock held.
  void notify() {
    ++changes_;
    changed_.notify_all();
  }

  /// Lets go of the lock until something has changed, or for a while. Returns whether it has.
  bool wait(std::unique_lock<std::mutex>& lock) {
    const std::uint64_t before = changes_;
    lock.unlock();
    stay_awake(50e-6, [&] { return changes_ != before; });
    lock.lock();
    if (changes_ == before) changed_.wait_for(lock, std::chrono::milliseconds(50));
    return changes_ != before;
  }

 private:
  std::condition_variable changed_;
  std::atomic<std::uint64_t> changes_ = 0;
};

}  // namespace vramx
