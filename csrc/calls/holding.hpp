// Which calls hold the lease of a fused unit, so that its members need none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <thread>

#include "device/device.hpp"

namespace vramx::calls {

/// Those of one fused unit: of one thread, on one stream. Under the interpreter's lock.
class Holding {
 public:
  /// The outermost such call, by number, and how many of the members were called in it.
  std::uint64_t number = 0;
  std::size_t members_called = 0;

  /// Whether the calling thread's work on a stream is covered.
  bool covers(Stream on) const {
    return calls_ > 0 && thread_ == std::this_thread::get_id() && stream_ == on;
  }
  bool any() const { return calls_ > 0; }
  bool outermost() const { return calls_ == 1; }
  /// Returns whether the call counts; then it leaves too.
  bool enter(Stream on) {
    if (any() && !covers(on)) return false;
    thread_ = std::this_thread::get_id();
    stream_ = on;
    if (calls_++ == 0) {
      ++number;
      members_called = 0;
    }
    return true;
  }
  void leave() { --calls_; }

 private:
  unsigned calls_ = 0;
  std::thread::id thread_;
  Stream stream_ = 0;
};

}  // namespace vramx::calls
