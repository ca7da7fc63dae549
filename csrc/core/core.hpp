// What one session owns, wired together: a device, its residency and the pools on top.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/pointers.hpp"
#include "device/device.hpp"
#include "pool/arena.hpp"
#include "pool/scratch.hpp"
#include "residency/residency.hpp"

namespace vramx {

class Core;

/// A piece of a session's memory, given back when the last owner lets go. May outlive the session.
class Memory {
 public:
  /// A part of an arena.
  Memory(std::shared_ptr<Core> core, std::shared_ptr<Arena> arena, Range range);
  /// An allocation of the core's scratch.
  Memory(std::shared_ptr<Core> core, Range range);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Range range() const { return range_; }
  const Facts& card() const;
  const std::shared_ptr<Core>& core() const { return core_; }

 private:
  std::shared_ptr<Core> core_;
  std::shared_ptr<Arena> arena_;
  Range range_;
};

/// A copy between the program's memory and a session's host copies.
struct Copy {
  Address device = 0;
  Address program = 0;
  Bytes size = 0;
};

class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<Device> device, Settings settings, const MakeStrategy& make_strategy);
  ~Core();

  /// Packed memory of these sizes, on the host and not on the card, unless it stays there. Throws
  /// OutOfMemory.
  std::vector<std::shared_ptr<Memory>> reserve(const std::vector<Bytes>& sizes, Purpose purpose);
  std::shared_ptr<Memory> empty(Bytes size, Stream stream, const Poll& poll);
  /// Takes back what empty gave. Does nothing in a forked child.
  void free(Address address) noexcept;

  /// Fills, or reads, host copies on several threads; what is on the card leaves it first, or is
  /// reached there if it stays.
  void store(const std::vector<Copy>& copies);
  void load(const std::vector<Copy>& copies);

  /// Takes no more work; memory that is still held stays readable. Twice is fine.
  void close(const Poll& poll);

  const std::shared_ptr<Device>& device() const { return device_; }
  Residency& residency() { return *residency_; }
  Bytes block() const { return block_; }
  Scratch& scratch() { return *scratch_; }
  Pointers& pointers() { return pointers_; }

 private:
  Blocks blocks_of(const std::vector<Copy>& copies) const;
  Store& memory_at(Address address) const;
  template <class One>
  void copy_on_host(const std::vector<Copy>& copies, Residency::HostWork kind, const One& one);

  std::shared_ptr<Device> device_;
  std::shared_ptr<Residency> residency_;
  std::unique_ptr<Scratch> scratch_;
  Pointers pointers_;
  Bytes block_;
  std::uint64_t generation_;
};

}  // namespace vramx
