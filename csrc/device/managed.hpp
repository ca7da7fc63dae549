// CUDA unified memory. Residency is moved by prefetch and advice alone; what is not on the card can
// still be used by it, and the driver keeps every byte right whatever is done.
//
// Weights prefer the host and become read-mostly when they are fetched: the card gets a duplicate,
// and taking read-mostly back drops it without a copy. Scratch prefers the host and is mapped for
// the card for good, so that an unleased access to what was evicted crosses the link instead of
// faulting.
//
// The driver holds a lock of the context while it carries pages, and a launch in that context waits
// for it: on an H200 by 0.5 ms a block, and by all of the time that a block is written back. So
// bytes cross the link from a context of their own, made when the first ones do.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device/cuda.hpp"

namespace vramx {

/// The most managed bytes all sessions of this process may hold at once; returns the previous
/// limit.
Bytes set_managed_limit(Bytes limit);
Bytes managed_bytes();

class ManagedStore final : public CudaStore {
 public:
  /// Throws NoDevice where the card cannot access managed memory concurrently.
  explicit ManagedStore(std::shared_ptr<CudaCard> card);

  Range reserve(Bytes size, Purpose purpose) override;
  void release(Range range) noexcept override;
  void store(Address to, const void* from, Bytes size) override;
  void load(void* to, Address from, Bytes size) override;
  Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override;
  Fence evict(Range range, EvictMode how, Lane lane, Fences after) override;
  void map_host(Range range) override;
  void unmap_host(Range range) override;
  void use_over_link(Stream stream, Range range) override;
  void settle(Range range) noexcept override;
  Fence lane_clock(Lane lane) override;
  std::string holds_up_launches() const override;

 private:
  const CudaLanes& carrying_lanes();
  void advise(Range range, CUmem_advise advice, CUdevice where) const;
  /// What populates pages of a range on the host, and is forgotten here.
  std::vector<Fence> populating(Range range);
  bool discard(Range range, CUstream stream) const;

  mutable std::mutex mutex_;
  std::vector<Range> scratch_;  ///< mapped for the card for good
  std::string lacks_context_;
  std::once_flag first_carried_;
  std::unique_ptr<CudaLanes> apart_;
  std::atomic<const CudaLanes*> carrying_;  ///< those that bytes cross on; the program's until then
  std::vector<std::pair<Range, Fence>> populating_;
};

}  // namespace vramx
