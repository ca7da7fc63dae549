// CUDA's virtual memory management: addresses that stay, and physical memory mapped behind them.
//
// A range's addresses are reserved once. Its bytes lie in pinned host memory, and on the card too
// while it is there; pinned copies carry them. What is mapped can be unmapped only as a whole, so
// the unit of mapping is the unit of movement, given when the device is made: ranges are cut into
// units from their start, and the last one may be shorter. On the card a unit has a frame of
// physical memory, from a stock that is kept and never holds more than was in use at one time.
//
// Where the card can, it reads and writes the host copy in place at its own address, whether or not
// the range is on the card; at the range's addresses there is something only while it is. Where the
// system refuses to pin the host copies of a range, they lie in ordinary memory, if the maker of
// the device accepts that, and the card cannot use them. Copies of such memory keep their place in
// the lane on the card's side; on the host's they read it when they are issued, and are over when
// they have written it, which does since nobody writes a host copy while its bytes are on their
// way.
//
// A store may keep no raw host copy of what it packs: then no host copy is used in place, and those
// that there are, of what does not shrink or was written, are pinned unit by unit as they are first
// fetched. `raw_bytes` is the one way to them.
//
// Remapping has no stream: what uses the range's addresses must be over before it leaves. So where
// the program's own memory has no better place it stays on the card and has no host copy; it is
// made of the same stock as the rest, so that both together are never more than was in use at one
// time.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "device/cuda.hpp"
#include "device/frames.hpp"
#include "device/pinned.hpp"

namespace vramx {

class MappedPacking;

/// What to do where the system refuses to pin host memory.
enum class Unpinned : std::uint8_t { refuse, accept };

struct MappedOptions {
  Unpinned unpinned = Unpinned::refuse;
  bool confines_scratch = false;
  /// Nothing that left stays mapped, so that uses without a lease fail.
  bool checked = false;
  /// Raw host copies stay beside packed ones.
  bool keeps_raw = true;
};

class MappedStore final : public CudaStore {
 public:
  /// Throws NoDevice where the card lacks virtual memory management, BadConfig where `unit` is not
  /// a multiple of what the card maps, or where it is to keep no raw bytes and this build cannot
  /// pack.
  MappedStore(std::shared_ptr<CudaCard> card, Bytes unit, MappedOptions options = {});
  ~MappedStore() override;

  Range reserve(Bytes size, Purpose purpose) override;
  bool confines(Purpose purpose) const override {
    return options_.confines_scratch && purpose == Purpose::scratch;
  }
  void release(Range range) noexcept override;
  void store(Address to, const void* from, Bytes size) override;
  void load(void* to, Address from, Bytes size) override;
  Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override;
  Fence evict(Range range, EvictMode how, Lane lane, Fences after) override;
  bool reads_in_place(Range range) const override;
  void map_host(Range range) override;
  void unmap_host(Range range) override;
  void use_over_link(Stream stream, Range range) override;
  Address host_address(Address address) const override;
  Address idle_address(Range range) const override;
  void refresh(Stream stream, Range range) override;
  void save(Stream stream, Range range) override;
  void check_budget(Bytes budget) const override;
  Bytes card_bytes() const override { return frames_->memory().held(); }
  Bytes pageable_bytes() const override;
  Bytes given_back_bytes() const override;
  void trim(Bytes most) noexcept override;
  Packing* packing() override;
  /// Bytes that are not pinned come to the card for good, as far as it has room; what does not fit
  /// stays reachable with load alone. The others stay readable at their host addresses.
  void settle(Range range) noexcept override;

  /// Fills one unit that is coming to the card, in a stream's order.
  using Fill = std::function<void(Range unit)>;
  /// As fetch, on any stream.
  Fence arrive(Range range, CUstream stream, Fences after, const Fill& fill);
  /// From now on what left stays mapped, see Frames.
  void keep_mapped() { keeps_mapped_ = !options_.checked; }
  /// Throws BadConfig unless a range is one or more whole units.
  void check_whole(Range range) { whole_units(range); }
  /// Where the host copy of a range of one unit lies, whose bytes are there from now on: made anew
  /// of its packed copy if they were given back.
  void* raw_bytes(Range range);
  /// A unit was packed: its raw bytes are given back, where that is meant.
  void packed(Range unit);
  const std::shared_ptr<CudaCard>& card() const { return card_; }
  Frames& frames() { return *frames_; }

 private:
  struct Unit;
  struct Reserved;
  using Units = std::span<Unit>;

  std::unique_ptr<HostCopy> host_copy_for(Bytes size) const;
  Reserved& find(Range range) const;
  /// Those that hold any byte of the range.
  Units units_of(Reserved& home, Range range) const;
  Units whole_units(Range range);
  void clear(Units units);

  /// Copies the parts of a range that has no host copy, unit by unit, and waits for it.
  template <class Copy>
  void reach_on_card(Reserved& home, Range range, const Copy& copy);

  /// What its bytes are before somebody writes all of them.
  enum class Before : std::uint8_t { needed, overwritten };
  void* raw_bytes(Unit& unit, Before before = Before::needed);
  /// For moves, to which it is worth the time that pinning takes.
  void* pinned_bytes(Unit& unit, Before before = Before::needed);
  std::mutex& mutex_of(const Unit& unit) const;
  void load_part(void* to, Unit& unit, Range part);
  void copy_to_card(Unit& unit, Range part, CUstream stream);
  void copy_to_host(Unit& unit, Range part, CUstream stream);
  void copy_back(Units units, CUstream lane);

  MappedOptions options_;
  std::atomic<Bytes> given_back_ = 0;
  std::atomic<Bytes> unpinnable_ = 0;  ///< of what is pinned unit by unit
  std::unique_ptr<Frames> frames_;
  std::atomic<bool> keeps_mapped_ = false;
  mutable std::mutex mutex_;
  std::map<Address, std::unique_ptr<Reserved>> reserved_;
  mutable std::array<std::mutex, 16> unit_mutexes_;  ///< of units' host bytes, by their addresses
  std::unique_ptr<MappedPacking> packing_;           ///< null where this build cannot pack
};

}  // namespace vramx
