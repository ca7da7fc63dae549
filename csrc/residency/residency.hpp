// What is on the card and what is not: the only code that decides a move.
//
// Every managed byte lies in a block. A block is on the host, arriving, resident or leaving; the
// blocks that are not on the host, arriving ones included, never exceed the budget. A lease keeps
// its blocks where the card can use them; its end leaves a fence, and nothing moves a block before
// the fences of its uses are reached. Decisions are made under one lock and carried out, in the
// order decided, by the mover; a move that fails leaves its blocks where they were.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/device.hpp"
#include "forms/tables.hpp"
#include "residency/changes.hpp"
#include "residency/holders.hpp"
#include "residency/lease.hpp"
#include "residency/moves.hpp"
#include "residency/notes.hpp"
#include "residency/settings.hpp"
#include "residency/weight_names.hpp"
#include "strategy/strategy.hpp"
#include "table/block_table.hpp"

namespace vramx {

class Residency final {
 public:
  Residency(std::shared_ptr<Device> device, Settings settings, const MakeStrategy& make_strategy);
  ~Residency();

  /// Takes charge of a reserved range in its lowest place, whose bytes mean nothing yet if `dead`.
  void adopt(Range range, Purpose purpose, bool dead);
  /// Gives up an adopted range. With `keep` its bytes end on the host; else they may be anywhere.
  /// Throws InUse, and changes nothing, while a lease holds one of its blocks.
  void forget(Range range, bool keep);
  /// The blocks that hold any byte of `range`, in address order. Throws BadConfig on foreign bytes.
  Blocks blocks_of(Range range) const;
  bool owns(Range range) const;
  bool holds_weights(Address address) const;

  /// `name` is what reports and timelines call it.
  GroupId define(Blocks blocks, std::string name = {});
  void undefine(GroupId group);
  /// Gives a group other blocks, in its place of the learned order. Throws InUse while it is
  /// leased.
  void redefine(GroupId group, Blocks blocks);
  void guess(const std::vector<GroupId>& order);

  /// Leases the group's blocks for work on `stream`, fetches what is absent, and what comes next.
  /// On return, work given to `stream` may use them. Blocks that cannot fit are used over the link
  /// where the device can, else OutOfMemory. Returns whether all are on the card. On any throw
  /// nothing is leased.
  bool acquire(GroupId group, Stream stream, const Poll& poll);
  void release(GroupId group, Stream stream);
  /// A lease outside the learned order, which returns as acquire does. Other threads may wait for
  /// one `held_by_thread` to end.
  bool take(const Blocks& blocks, Stream stream, bool held_by_thread, const Poll& poll);
  void give(const Blocks& blocks, Stream stream, bool held_by_thread);
  /// As take, but holds nothing: work on `stream` is about to use memory that was handed out.
  void place(const Blocks& blocks, Stream stream, const Poll& poll);
  void prefetch(const Blocks& blocks);
  /// Those that stay on the card stay.
  void evict(const Blocks& blocks, const Poll& poll);
  /// What work does to host copies.
  enum class HostWork : std::uint8_t { reads, writes };
  /// Does `work` on the host copies, which hold the truth meanwhile; other uses wait for its end.
  /// Of what stays on the card that is where `work` finds it.
  void on_host(const Blocks& blocks, const std::function<void()>& work, const Poll& poll,
               HostWork kind = HostWork::writes);
  /// Throws BadConfig where the card cannot follow it. What stays on the card has no need of any.
  void advise(const Blocks& all, Advice advice, const Poll& poll);
  /// The program wrote to the copies in a place: on the card, in a way the host's do not show.
  void written(const Blocks& blocks, Place where);
  /// Packs the blocks of weights that are not leased, where it makes them smaller; by address.
  /// Returns false, with none packed, where the card has no room for it now. Throws OutOfMemory
  /// where memory runs out meanwhile: those packed by then are, and the others stay raw.
  bool pack(std::vector<TypedRange> weights, const Poll& poll);
  /// What errors call the weights in a range.
  void call(Range weights, std::string name);
  void let_die(const Blocks& blocks);
  /// Uses of the blocks without a lease end here: on each stream, at its fence.
  void end_uses(const Blocks& blocks, std::span<const std::pair<Stream, Fence>> ends);
  /// Whether all of the blocks are so at one moment.
  bool all(const Blocks& blocks, const std::function<bool(const Block&)>& are) const;
  bool on_card(const Blocks& blocks) const;

  /// Returns the previous budget, with the new one already kept.
  Bytes set_budget(Bytes budget, const Poll& poll);
  Bytes budget() const { return budget_; }
  Stats stats() const;
  GroupUsage usage(GroupId group) const;
  /// What was counted of blocks that never were part of a group.
  Counts ungrouped() const;
  std::optional<PlanUsage> plan() const;

  /// Keeps a journal of the newest `most_events` events until end_trace. `stream` is one that is in
  /// use. Moves that are under way by then count as done. Throws InUse where one is kept already.
  void begin_trace(Stream stream, std::size_t most_events);
  /// Waits for moves that were asked for. Works after close too.
  Log end_trace(const Poll& poll);
  /// How many live scratch blocks lie on the host: they are slow until used.
  std::size_t scratch_on_host() const;

  /// Takes everything to the host, settles it there, and refuses further use. Twice is fine.
  void close(const Poll& poll);

 private:
  using Lock = std::unique_lock<std::mutex>;
  Lock locked() const;
  void check_open() const;
  void wait(Lock& lock, const Poll& poll, MaybeGroup group = {});
  void settle(Lock& lock, const Blocks& blocks, const Poll& poll, MaybeGroup group = {});
  void finish_moves(Lock& lock, std::uint64_t last, const Poll& poll);
  void find_damage();
  void drop_damaged(Lock& lock, const Poll& poll);
  void tell_damage(const Blocks& used);
  void check_arrivals(Lock& lock, const Blocks& asked, const Poll& poll);
  bool start(Lock& lock, const Lease& asked, const Poll& poll);
  std::optional<bool> try_start(Lock& lock, const Lease& asked, const Poll& poll);
  void wait_for_room(Lock& lock, const Lease& asked, const Poll& poll);
  void lease(const Blocks& blocks, bool held_by_thread);
  void unlease(const Blocks& blocks, bool held_by_thread);
  void end(const Blocks& blocks, Stream stream, bool held_by_thread);
  bool moving() const { return !moves_->none() || works_on_host_ > 0; }
  void pump(Lock& lock);
  void evict(Lock& lock, const Falls& falls, EvictCause why, const Poll& poll);
  void put_on_host(Lock& lock, const Blocks& blocks, const char* action, const Poll& poll);
  void raise(Lock& lock, const Blocks& blocks, const Poll& poll);
  std::exception_ptr hold_on_host(Lock& lock, const Blocks& blocks,
                                  const std::function<void()>& work);
  bool reserve(Lock& lock, Bytes bytes, const Poll& poll);
  bool claim(Lock& lock, Bytes bytes, const Poll& poll);
  void unreserve(Bytes bytes);
  void follow_staging(Lock& lock, const Poll& poll);

  std::shared_ptr<Device> device_;
  const Settings settings_;    ///< as it was opened
  std::atomic<Bytes> budget_;  ///< the present one
  std::uint64_t generation_;
  mutable std::mutex mutex_;
  Changes changed_;
  BlockTable table_;
  Notes notes_;
  std::vector<GroupId> in_use_;  ///< the groups leased now, in order
  std::unique_ptr<Strategy> strategy_;
  Holders holders_;
  std::uint64_t works_on_host_ = 0;
  double stall_seconds_ = 0;
  WeightNames names_;
  std::vector<std::string> damage_;  ///< what arrived damaged and was not told yet
  bool closed_ = false;
  std::unique_ptr<Moves> moves_;  ///< last: its thread ends before what it calls back is gone
};

}  // namespace vramx
