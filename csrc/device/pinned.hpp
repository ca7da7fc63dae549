// Host memory, pinned where the system grants it: where the host copies of mapped memory lie.
#pragma once

#include <memory>
#include <optional>

#include "base/error.hpp"
#include "base/range.hpp"
#include "device/driver.hpp"

namespace vramx {

/// The host memory that this process has pinned here.
Bytes pinned_bytes();

/// The system refused to pin memory, whether for want of it or of a permission.
struct PinRefused : OutOfMemory {
  using OutOfMemory::OutOfMemory;
};

/// Pages of the process that are pinned while it lives.
class Pin {
 public:
  /// Throws PinRefused, with what was asked and is pinned, where the system refuses.
  Pin(std::shared_ptr<const Driver> driver, Range pages);
  ~Pin();
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

 private:
  std::shared_ptr<const Driver> driver_;
  Range pages_;
};

/// Memory of the process, pinned or not. Pinned, the card uses it in place by the same addresses,
/// and copies are made without a detour through memory of the driver's, several times faster.
class HostCopy {
 public:
  /// Throws as Pin, and OutOfMemory where the process can have no more.
  HostCopy(std::shared_ptr<const Driver> driver, Bytes size, bool pinned);
  ~HostCopy();
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  bool pinned() const { return pin_.has_value(); }
  Address start() const { return start_; }

 private:
  Range mapped_;
  Address start_ = 0;
  std::optional<Pin> pin_;
};

}  // namespace vramx
