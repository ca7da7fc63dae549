// The moves of a session's blocks: what leaves for what comes, jobs for the mover, and how they
// ended.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "device/device.hpp"
#include "mover/mover.hpp"
#include "residency/hops.hpp"
#include "residency/notes.hpp"
#include "residency/settings.hpp"
#include "strategy/strategy.hpp"
#include "table/block_table.hpp"

namespace vramx {

/// A block that is to leave a place, where it rests, for the one below; or the packed copy of one
/// that is to leave the card.
struct Fall {
  BlockId id = 0;
  Place from = Place::card;
  bool packed = false;
};
using Falls = std::vector<Fall>;

/// A block that is to rise; it `holds` its packed copy on the card from then on.
struct Rise {
  BlockId id = 0;
  bool holds = false;
};
using Rises = std::vector<Rise>;

/// Its owner's lock guards it, but for `pump`. What it refers to outlives it.
class Moves {
 public:
  /// Told of a job that is over, by any thread and without the lock: calls `settle` under it.
  using Finished = std::function<void(std::uint64_t job, Outcome& outcome)>;

  Moves(std::shared_ptr<Device> device, BlockTable& table, Strategy& strategy, Notes& notes,
        const Settings& settings, const std::atomic<Bytes>& budget, Finished finished);

  /// The most bytes in each place.
  PerPlace<Bytes> room() const;
  /// Adds to `falls` until they make room for so much more in each place; adds none where they
  /// cannot. What leaves the card is what `evictable`, and for a use what is kept packed.
  bool make_room(const PerPlace<Bytes>& need, const Evictable& evictable, bool for_use,
                 Falls& falls) const;
  /// Puts as many of `wanted` under way to a place as room can be made for, in order; returns how
  /// many.
  std::size_t fetch(const Blocks& wanted, FetchCause why, const Evictable& evictable,
                    Place to = Place::card);
  /// Puts under way what leaves, and then what comes.
  void submit(const Falls& falls, const Rises& rises, Place to, EvictCause evicted_for,
              FetchCause fetched_for);
  /// Puts the packed copies under way off the card that nobody wants there.
  void drop_unwanted();
  /// The copy of a block in a place was written.
  void written(Block& block, Place where);
  /// The packed copy of a block arrived damaged: it is used no more, nor is what came of it.
  void damaged(Block& block);
  /// Issues what was put under way, where no thread of the mover's does.
  void pump() { mover_.pump(); }
  /// Takes note of how a job ended.
  void settle(std::uint64_t job, Outcome& outcome);

  /// Whether all up to a job are over.
  bool over(std::uint64_t job) const {
    return under_way_.empty() || under_way_.begin()->first > job;
  }
  bool none() const { return under_way_.empty(); }
  std::uint64_t last_job() const { return last_job_; }
  std::uint64_t failed() const { return failed_; }
  Bytes peak_resident() const { return peak_resident_; }

  /// Lets the card use a block where it lies on the host.
  void map_host(Block& block);
  /// Where it fails the block stays hidden until it is next used in place.
  void try_map_host(Block& block) noexcept;
  /// Has work on a stream use a block where it lies.
  void use_over_link(Block& block, Stream stream);
  /// What is leased may be in use where it lies, and what arrives is unmapped by its move.
  void unmap_idle(Block& block);

 private:
  struct Asked {
    std::vector<Down> down;
    std::vector<Up> up;
    std::uint64_t journal = 0;  ///< the one that it is noted in
    double submitted = 0;       ///< by that one's clock
  };
  bool add_fall(Place from, const Evictable& evictable, Falls& falls) const;
  bool add_packed_fall(Falls& falls) const;
  std::optional<BlockId> victim(const Evictable& evictable) const;
  std::vector<Down> go_down(const Falls& falls, EvictCause why, Job& job);
  std::vector<Up> go_up(const Rises& rises, Place to, FetchCause why, Job& job);
  struct Way {
    Route* route;
    Bytes crossing;
  };
  Way way_up(const Block& block, Place from, bool holds);
  bool unpacks(const Block& block) const;
  bool takes_packed(const Block& block) const;
  void hold_packed(const Block& block, FetchCause why, Job& job, std::vector<Up>& hops);
  void drop_packed(const Block& block, EvictCause why, Job& job, std::vector<Down>& hops);
  void set_packed_on_card(BlockId id, bool there);
  void forget_stale(Block& block) noexcept;
  void tell_strategy(const Asked& moves);
  void retell_strategy(BlockId id, bool on_card) noexcept;
  Store& memory_of(const Block& block) { return device_->memory(block.purpose); }
  void fell(Block& block, const Down& hop);
  void rose(Block& block, const Up& hop, const Fence& arrival);
  void stayed(Block& block, Place from, const std::exception_ptr& error, bool noted);
  void settle(const Asked& moves, const Outcome& outcome, const std::exception_ptr& error);

  std::shared_ptr<Device> device_;
  BlockTable& table_;
  Strategy& strategy_;
  Notes& notes_;
  const Settings& settings_;
  const std::atomic<Bytes>& budget_;
  Finished finished_;
  std::map<std::uint64_t, Asked> under_way_;  ///< by the number of the job
  std::uint64_t last_job_ = 0;
  std::uint64_t failed_ = 0;  ///< moves
  Bytes peak_resident_ = 0;
  Mover mover_;  ///< last: its thread ends before what it calls back is gone
};

}  // namespace vramx
