// Host memory, pinned where the system grants it: where the host copies of mapped memory lie.
#pragma once

#include <memory>
#include <vector>

#include "base/error.hpp"
#include "device/device.hpp"
#include "device/physical.hpp"

namespace vramx {

/// The host memory that this process has pinned here.
Bytes pinned_bytes();

/// What the card can do with host memory: use it in place and copy it, only copy it, or only copy
/// it by way of memory of the driver's, which is several times slower.
enum class Pinning : std::uint8_t { mappable, ordinary, none };

/// The system refused to pin memory, whether for want of it or of a permission.
struct PinRefused : OutOfMemory {
  using OutOfMemory::OutOfMemory;
};

class HostCopy {
 public:
  virtual ~HostCopy() = default;

  Pinning pinning() const { return pinning_; }

  /// Where the processor reads and writes it, and the card's copies too.
  Address start() const { return start_; }
  /// The physical memory of the `index`-th unit, which the card can map; 0 where it cannot.
  virtual Handle handle(std::size_t index) const = 0;

 protected:
  explicit HostCopy(Pinning pinning) : pinning_(pinning) {}

  Address start_ = 0;

 private:
  Pinning pinning_;
};

/// Physical memory of the host in units. Throws PinRefused, with what was asked and is pinned,
/// where the system refuses.
std::unique_ptr<HostCopy> pin_mappable(std::shared_ptr<const Driver> driver, CUdevice card,
                                       int node, Bytes size, Bytes unit);
/// Ordinary memory of the process, which the card cannot map. Likewise.
std::unique_ptr<HostCopy> pin_ordinary(std::shared_ptr<const Driver> driver, Bytes size);
/// The same, not pinned. Throws OutOfMemory where the process can have no more.
std::unique_ptr<HostCopy> keep_pageable(std::shared_ptr<const Driver> driver, Bytes size);

}  // namespace vramx
