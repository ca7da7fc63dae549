// The card's memory behind ranges that come and go.
//
// Mapping takes longer than unpacking a block does. So what comes and goes in a steady order can
// have a frame, a piece of the card's memory that stays mapped at the addresses of each range that
// was last in it: a range that returns finds its own frame, unless another one is in it. What is
// read at the addresses of a range that has left is another's, then; where that must not be, it is
// unmapped as it leaves.
//
// Memory is given back only once it is mapped nowhere. Where the driver refuses to unmap some, that
// rests as it is until memory is needed, and then the driver is asked again.
#pragma once

#include <functional>
#include <list>
#include <mutex>
#include <vector>

#include "device/physical.hpp"
#include "device/streams.hpp"

namespace vramx {

/// Calls are safe from any thread and want the card's context current; two for one tenant must not
/// run at once.
class Frames {
 public:
  struct Frame;
  /// A range that has a frame at times.
  struct Tenant {
    Range range;
    bool there = false;          ///< on the card
    Frame* frame = nullptr;      ///< the one that is mapped at its addresses
    std::vector<Fence> after{};  ///< when its last uses are over
  };

  /// `wait` blocks the host until a fence is reached.
  Frames(std::shared_ptr<const Driver> driver, CUdevice card,
         std::function<void(const Fence&)> wait);
  ~Frames();
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;

  /// Gives a frame to a tenant that has none now, mapped at its addresses. Returns what to wait for
  /// before it is written. On a throw nothing has changed.
  std::vector<Fence> enter(Tenant& tenant);
  /// The tenant is not there any more, once `after` is reached; the frame stays mapped.
  void leave(Tenant& tenant, Fences after);
  /// Unmaps what is mapped at their addresses; their uses are over. Throws, and nothing has
  /// changed, where the driver refuses.
  void clear(const std::vector<Tenant*>& tenants);

  /// The tenant is about to be gone, and its uses are over. Returns false where the driver refuses
  /// to unmap it: then it has to stay until it is released again.
  bool release(Tenant& tenant) noexcept;
  /// What returns whether it has unmapped what was refused before; from now on it is asked when
  /// memory is needed, or is to be let go of, until it has.
  void try_later(std::function<bool()> unmap) noexcept;

  /// Memory for something else, of the same stock.
  CardMemory& memory() { return memory_; }
  /// From now on a frame more than are in use may be kept, of so many bytes.
  void set_spare(Bytes spare) noexcept;
  /// Lets go of what nobody is in, down to `most` bytes in all.
  void trim(Bytes most) noexcept;

 private:
  Frame* idle_frame(Bytes size);
  Frame* create(Tenant& tenant);
  bool try_again() noexcept;
  bool give_back_idle();
  std::list<Frame>::iterator place_of(const Frame& frame);
  void rest(Tenant& tenant, Frame& frame) noexcept;
  void map(Tenant& tenant, Frame& frame);
  void unmap(Tenant& tenant);
  void vacate(Tenant& tenant, Frame& frame) noexcept;
  void drop(std::list<Frame>::iterator frame);
  void give_back(std::list<Frame>::iterator frame) noexcept;

  std::shared_ptr<const Driver> driver_;
  CUdevice card_;
  std::function<void(const Fence&)> wait_;
  CardMemory memory_;
  std::recursive_mutex mutex_;  ///< creating a frame may give back another
  std::list<Frame> frames_;
  std::list<std::function<bool()>> refused_;
  std::uint64_t left_ = 0;
};

}  // namespace vramx
