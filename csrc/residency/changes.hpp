// Waiting until something that a lock guards has changed.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "base/host_clock.hpp"

namespace vramx {

class Changes {
 public:
  /// Something has changed. With the lock held.
  void notify() {
    ++changes_;
    changed_.notify_all();
  }

  /// Lets go of the lock until something has changed, or for a while. Returns whether it has. A
  /// thread that sleeps wakes later than most moves take to be issued, so it stays awake at first.
  bool wait(std::unique_lock<std::mutex>& lock) {
    const std::uint64_t before = changes_;
    const double end = host_seconds() + awake_for;
    lock.unlock();
    while (changes_ == before && host_seconds() < end) std::this_thread::yield();
    lock.lock();
    if (changes_ == before) changed_.wait_for(lock, std::chrono::milliseconds(50));
    return changes_ != before;
  }

 private:
  static constexpr double awake_for = 50e-6;

  std::condition_variable changed_;
  std::atomic<std::uint64_t> changes_ = 0;
};

}  // namespace vramx
