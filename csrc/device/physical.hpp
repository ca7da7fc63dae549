// Reserved addresses and the physical memory that is mapped at them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/range.hpp"
#include "device/driver.hpp"

namespace vramx {

/// A piece of physical memory; 0 for none.
using Handle = CUmemGenericAllocationHandle;

/// Where a card's physical memory lies.
CUmemAllocationProp on_card(CUdevice card);

/// Maps a piece of a card's memory at addresses, for the card to read and write. Throws, and
/// nothing is mapped, where the driver refuses.
void map_on_card(const Driver& driver, CUdevice card, Range at, Handle memory);

/// Addresses with nothing behind them, given back with the object. What was mapped at them has to
/// be unmapped before.
class Addresses {
 public:
  Addresses(std::shared_ptr<const Driver> driver, Bytes size, Bytes alignment);
  ~Addresses();
  Addresses(const Addresses&) = delete;
  Addresses& operator=(const Addresses&) = delete;

  Range range() const { return range_; }

 private:
  std::shared_ptr<const Driver> driver_;
  Range range_;
};

/// A card's physical memory, kept for the next use: creating and freeing it for every move would
/// give other programs the chance to take it in between. It never holds more than was in use at one
/// time. Calls are safe from any thread and want the card's context current.
class CardMemory {
 public:
  CardMemory(std::shared_ptr<const Driver> driver, CUdevice card);
  ~CardMemory();
  CardMemory(const CardMemory&) = delete;
  CardMemory& operator=(const CardMemory&) = delete;

  /// Throws OutOfMemory, with what was asked, is held and is free, where the card has no more.
  Handle take(Bytes size);
  void give(Bytes size, Handle handle) noexcept;
  /// Memory that was taken is of no use now, and may be asked for again by `reclaim`; or is in use
  /// again.
  void rest(Bytes size) noexcept;
  void resume(Bytes size) noexcept;
  /// Is asked to give back memory that rests, which returns false where it has none.
  void set_reclaim(std::function<bool()> reclaim) { reclaim_ = std::move(reclaim); }
  /// May hold so much more than will be in use at one time, from now on. Returns what it may hold
  /// now.
  Bytes set_spare(Bytes spare) noexcept;
  /// Whether so much more can be had beside all that is held.
  bool has_room(Bytes size) const;
  /// Lets go of what is not in use, down to `most` held in all, which is the most from now on too,
  /// unless more is in use.
  void trim(Bytes most) noexcept;
  Bytes held() const;

 private:
  void shrink(Bytes most) noexcept;
  void make_room(std::unique_lock<std::mutex>& lock, Bytes size);
  Handle create(Bytes size);

  std::shared_ptr<const Driver> driver_;
  CUmemAllocationProp place_;
  mutable std::mutex mutex_;
  std::map<Bytes, std::vector<Handle>> idle_;
  std::function<bool()> reclaim_ = [] { return false; };
  Bytes held_ = 0;
  Bytes spare_ = 0;
  Bytes in_use_ = 0;
  Bytes peak_ = 0;  ///< the most in use at one time
};

}  // namespace vramx
