// What is on the card and what is not: the only code that decides a move.
//
// Every managed byte lies in a block. A block is on the host, arriving, resident or leaving; the
// blocks that are not on the host, arriving ones included, never exceed the budget. A lease keeps
// its blocks where the card can use them; its end leaves a fence, and nothing moves a block before
// the fences of its uses are reached. Decisions are made under one lock and carried out, in the
// order decided, by the mover; a move that fails leaves its blocks where they were.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device/device.hpp"
#include "mover/mover.hpp"
#include "plan/schedule.hpp"
#include "policy/order.hpp"
#include "policy/policy.hpp"
#include "residency/block_table.hpp"
#include "residency/counts.hpp"
#include "residency/journal.hpp"
#include "residency/recorder.hpp"
#include "residency/trial.hpp"
#include "residency/usage.hpp"

namespace vramx {

enum class Advice : std::uint8_t {
  read_mostly,
  unset_read_mostly,
  preferred_device,
  preferred_host,
  unset_preferred,
  accessed_by,
  unset_accessed_by,
};

struct Settings {
  Bytes budget = 0;
  Bytes block = 32 * MiB;
  Bytes host_limit = std::numeric_limits<Bytes>::max();  ///< the most bytes to take charge of
  bool adaptive = true;   ///< learn the order, bring ahead what is next, and plan what stays
  bool threaded = true;   ///< moves are issued by a thread of their own
  bool profiled = false;  ///< leases and moves are ranges in the attached profiler's timeline
};

/// The counts of all blocks that there ever were, and what is counted of the whole: in bytes, in
/// moves and in seconds.
struct Stats : Counts {
  Bytes budget = 0, managed = 0, resident = 0, leased = 0, peak_resident = 0;
  std::uint64_t failed_moves = 0;
  double stall_seconds = 0;
};

/// Called now and then while a call waits, without locks; throws to end the wait.
using Poll = std::function<void()>;
using MakePolicy = std::function<std::unique_ptr<Policy>(const Future&)>;

class Residency final : public Future {
 public:
  Residency(std::shared_ptr<Device> device, Settings settings, const MakePolicy& make_policy);
  ~Residency() override;

  /// Takes charge of a reserved range that is on the host; `dead` says its bytes mean nothing yet.
  void adopt(Range range, Use use, bool dead);
  /// Gives up an adopted range. With `keep` its bytes end on the host; else they may be anywhere.
  /// Throws InUse, and changes nothing, while a lease holds one of its blocks.
  void forget(Range range, bool keep);
  /// The blocks that hold any byte of `range`, in address order. Throws BadConfig on foreign bytes.
  Blocks blocks_of(Range range) const;
  bool owns(Range range) const;
  /// Whether weights of this session lie at an address.
  bool holds_weights(Address address) const;

  /// `name` is what reports and timelines call it.
  GroupId define(Blocks blocks, std::string name = {});
  void undefine(GroupId group);
  /// Gives a group other blocks; its place in the learned order stays. Throws InUse while it is
  /// leased.
  void redefine(GroupId group, Blocks blocks);
  /// A first guess at the order of use.
  void guess(const std::vector<GroupId>& order);

  /// Leases the group's blocks for work on `stream`, brings what is absent, and what comes next.
  /// On return, work given to `stream` may use them. Blocks that cannot fit are used over the link
  /// where the device can, else OutOfMemory. Returns whether all are on the card. On any throw
  /// nothing is leased.
  bool acquire(GroupId group, Stream stream, const Poll& poll);
  void release(GroupId group, Stream stream);

  /// A lease outside the learned order, which returns as acquire does. Other threads may wait for
  /// one `held_by_thread` to end.
  bool take(const Blocks& blocks, Stream stream, bool held_by_thread, const Poll& poll);
  void give(const Blocks& blocks, Stream stream, bool held_by_thread);
  /// As take, but holds nothing: memory was handed out, and work on `stream` is about to use it.
  void place(const Blocks& blocks, Stream stream, const Poll& poll);
  bool leased(const Blocks& blocks) const;
  /// Whether a lease holds some of a range.
  bool any_leased(Range range) const;

  void prefetch(const Blocks& blocks);
  void evict(const Blocks& blocks, const Poll& poll);
  /// Does `work` on the host copies, which hold the truth meanwhile; other uses wait for its end.
  void on_host(const Blocks& blocks, const std::function<void()>& work, const Poll& poll);
  void advise(const Blocks& blocks, Advice advice, const Poll& poll);
  /// The program wrote to the blocks in a way their host copies do not show.
  void written(const Blocks& blocks);
  /// Nobody needs the bytes of the blocks any more, or somebody does again.
  void set_dead(const Blocks& blocks, bool dead);
  /// Uses of the blocks without a lease end here: on each stream, at its fence.
  void end_uses(const Blocks& blocks, std::span<const std::pair<Stream, Fence>> ends);
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
  /// Waits for the moves that were asked for by now. Works after close too.
  Log end_trace(const Poll& poll);
  /// How many live scratch blocks lie on the host: they are slow until touched.
  std::size_t scratch_on_host() const;

  /// Takes everything to the host, settles it there, and refuses further use. Twice is fine.
  void close(const Poll& poll);

  std::optional<std::uint64_t> next_use(BlockId block) const override;

 private:
  /// Planned anew after each of so many rounds of a cycle: first uses take longer than later ones.
  static constexpr unsigned rounds_planned = 3;
  /// Then some are looked at now and then, after so many others at first: times may have changed.
  static constexpr std::uint64_t first_pause = 16;
  struct Moves {
    Blocks victims;
    Blocks arriving;
    std::uint64_t journal = 0;  ///< the one that it is noted in
    double submitted = 0;       ///< by that one's clock
  };
  using Lock = std::unique_lock<std::mutex>;
  /// A thread that holds leases, from its first one on.
  struct Holder {
    std::thread::id thread;
    std::uint64_t leases = 0;
    double seen = 0;           ///< when another first waited for it, by the host's clock
    bool passed_over = false;  ///< others have waited for it long enough
  };
  using Holders = std::vector<Holder>;

  Lock locked() const;
  void check_open() const;
  void check_not_leased(const Blocks& blocks, const char* action) const;
  [[noreturn]] void out_of_memory(const Blocks& blocks) const;
  void wait(Lock& lock, const Poll& poll, std::optional<GroupId> group = {});
  void settle_transitions(Lock& lock, const Blocks& blocks, const Poll& poll,
                          std::optional<GroupId> group = {});
  void finish_moves(Lock& lock, std::uint64_t last, const Poll& poll);
  bool read_in_place(const Blocks& blocks) const;
  std::string names_in_use() const;
  void change_group(GroupId group);

  void wait_for_room(Lock& lock, const Blocks& blocks, const Poll& poll,
                     std::optional<GroupId> group);
  bool start(Lock& lock, const Blocks& blocks, Stream stream, bool held_by_thread,
             std::optional<GroupId> group, const Poll& poll);
  enum class Started : std::uint8_t { not_yet, on_card, over_link };
  Started try_start(Lock& lock, const Blocks& blocks, Stream stream, std::optional<GroupId> group,
                    const Poll& poll);
  void lease(const Blocks& blocks, bool held_by_thread);
  void unlease(const Blocks& blocks, bool held_by_thread);
  void end(const Blocks& blocks, Stream stream, bool held_by_thread);
  Holders::iterator find_holder();
  bool others_hold(bool in_place);
  bool stay(const Blocks& blocks) const;
  bool may_leave(BlockId id) const;
  bool choose_victims(Bytes size, const MayLeave& may_leave, Blocks& victims) const;
  std::size_t bring(const Blocks& wanted, Brought why, const MayLeave& may_leave);
  void bring_ahead();
  void bring_planned();
  void follow(GroupId group, Stream stream);
  Fence time_now(Stream stream) noexcept;
  void record(GroupId group, Fence asked, Fence began);
  void plan_if_due();
  Bytes scratch_of_rounds(std::size_t length);
  bool fits(std::size_t length, Bytes scratch) const;
  bool plan_round(std::size_t length);
  LinkRates link_rates() const;
  bool adopt_plan(std::vector<Schedule::Use> cycle, Trace trace, std::size_t position);
  bool keeps_streaming(const Recorder::Round& round);
  bool leaves_plan(const Recorder::Round& round);
  void plan_from_scratch();
  void plan_again(const std::vector<Bytes>& scratch);
  void follow_scratch();
  std::unique_ptr<Schedule> drop_plan();
  void release_unless_stays(BlockId id);
  void use_over_link(Block& block, Stream stream);
  void expose(Block& block);
  void try_to_expose(Block& block) noexcept;
  void conceal_idle(Block& block);
  void tell_policy(const Blocks& leaving, const Blocks& arriving);
  void retell_policy(BlockId id, bool on_card) noexcept;
  void submit(Blocks victims, Blocks arriving, Left left_for, Brought brought_for);
  void finished(std::uint64_t job, Outcome& outcome);
  void settle_moves(const Moves& moves, const Outcome& outcome, const std::exception_ptr& error);
  /// Whether nothing that the program uses is about to come to the card, or to leave it.
  bool at_rest() const { return table_.sums().away == 0 || (fits_ && !schedule_); }
  bool recording() const { return settings_.adaptive && rounds_to_plan_ > 0 && !at_rest(); }
  bool moving() const { return !under_way_.empty() || works_on_host_ > 0; }
  void left_card(Block& block);
  bool may_stall(const Blocks& blocks, Stream stream) const;
  void note_move(const Block& block, const Moves& moves, const Outcome& outcome, std::size_t issue,
                 const Fence& over);
  void note_use(GroupId group, Event::Kind kind, Stream stream, Fence from, Fence to);
  void note_failure(const std::exception_ptr& error);
  void note_budget();
  void note_plan();
  TracedGroup traced(GroupId group) const;
  void pump(Lock& lock);
  void evict(Lock& lock, const Blocks& blocks, Left why, const Poll& poll);
  void take_off(Lock& lock, const Blocks& blocks, const char* action, const Poll& poll);

  std::shared_ptr<Device> device_;
  const Settings settings_;    ///< as it was opened
  std::atomic<Bytes> budget_;  ///< the present one
  std::uint64_t generation_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  BlockTable table_;
  Order order_;
  Recorder recorder_;
  Fence planned_;                       ///< when the present use had planned; null where it has not
  std::vector<GroupId> in_use_;         ///< the groups leased now, in order
  std::unique_ptr<Schedule> schedule_;  ///< the plan in force, or null
  unsigned rounds_to_plan_ = rounds_planned;
  std::uint64_t uses_ = 0;
  std::uint64_t plan_from_use_ = 0;
  std::uint64_t pause_ = first_pause;  ///< rounds until the next look
  std::uint64_t look_again_at_use_ = 0;
  Trial trial_;
  std::uint64_t off_course_ = 0;  ///< uses since the plan last said what came
  std::unique_ptr<Policy> policy_;
  Holders holders_;
  std::uint64_t thread_leases_ = 0;
  std::map<std::uint64_t, Moves> under_way_;  ///< by the number of the mover's job
  std::uint64_t last_job_ = 0;
  std::uint64_t works_on_host_ = 0;
  bool fits_ = false;        ///< a whole cycle does, and no use has missed its blocks since
  Bytes round_scratch_ = 0;  ///< of those, in the present round
  Bytes last_scratch_ = 0;   ///< of those, in the round before
  std::uint64_t round_of_scratch_ = 0;  ///< the use with which that round ended
  std::vector<Bytes> seen_scratch_;     ///< by use of the plan's, in its present round
  Bytes look_from_room_ = 0;  ///< what the next block to bring by the plan takes, if known
  std::uint64_t looked_at_version_ = 0;  ///< of the table, then
  std::uint64_t window_ = 0;             ///< the number of the present look ahead
  Stats stats_;
  std::uint64_t rounds_recorded_ = 0;
  bool virtual_clock_ = false;
  std::unique_ptr<Journal> journal_;  ///< while events are wanted
  std::uint64_t journals_ = 0;        ///< begun so far
  bool closed_ = false;
  std::unique_ptr<Mover> mover_;  ///< last: its thread ends before what it calls back is gone
};

}  // namespace vramx
