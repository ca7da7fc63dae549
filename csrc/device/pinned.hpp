// Pinned host memory: where the host copies of mapped memory lie.
#pragma once

#include <memory>
#include <vector>

#include "device/device.hpp"
#include "device/physical.hpp"

namespace vramx {

/// The host memory that this process has pinned here.
Bytes pinned_bytes();

class PinnedMemory {
 public:
  virtual ~PinnedMemory() = default;

  /// Where the processor reads and writes it, and the card's copies too.
  Address start() const { return start_; }
  /// The physical memory of the `index`-th unit, which the card can map; 0 where it cannot.
  virtual Handle handle(std::size_t index) const = 0;

 protected:
  PinnedMemory() = default;

  Address start_ = 0;
};

/// Physical memory of the host in units. Throws OutOfMemory, with what was asked and is pinned,
/// where the system refuses.
std::unique_ptr<PinnedMemory> pin_mappable(std::shared_ptr<const Driver> driver, CUdevice card,
                                           int node, Bytes size, Bytes unit);
/// Ordinary memory of the process, which the card cannot map. Likewise.
std::unique_ptr<PinnedMemory> pin_ordinary(std::shared_ptr<const Driver> driver, Bytes size);

}  // namespace vramx
