// Which bytes a session has charge of: its blocks, the ranges and groups that they make up, and
// sums over them. It knows what is where, and neither moves nor decides anything.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "table/block.hpp"
#include "table/counts.hpp"

namespace vramx {

/// What is known of a group beside its blocks.
struct Group {
  std::uint64_t serial = 0;
  std::string name;  ///< what reports and timelines call it
  std::uint64_t uses = 0;
  double stall_seconds = 0;
  Blocks blocks{};  ///< each once, in the order of their addresses within a range
};

/// In bytes, where no other unit is named.
struct Sums {
  Bytes managed = 0;
  PerPlace<Bytes> held{};        ///< there or higher, arriving and at rest
  PerPlace<Bytes> idle{};        ///< at rest there, not leased, and there is a place below
  Bytes leased = 0;              ///< arriving or resident, and leased
  Bytes confined = 0;            ///< likewise, not leased, and may not leave for all that
  Bytes unneeded = 0;            ///< resident, not leased, and no need of the plan's
  Bytes unplanned_scratch = 0;   ///< arriving and resident, live, and not the plan's
  Bytes dead_scratch = 0;        ///< arriving and resident, and nobody needs its bytes
  std::size_t away = 0;          ///< blocks that are not resident, the dead ones apart
  std::size_t dead_on_card = 0;  ///< blocks
  Bytes reserved = 0;            ///< of the card, held whatever blocks are there
  Bytes staging = 0;             ///< of that, for packed bytes to arrive in
  Bytes packed = 0;              ///< in packed copies on the host
  Bytes packed_on_card = 0;      ///< of them, on the card too
};

class BlockTable {
 public:
  /// `block` is the most bytes of a block.
  explicit BlockTable(Bytes block) : block_(block) {}

  Block& operator[](BlockId id) { return blocks_[id]; }
  const Block& operator[](BlockId id) const { return blocks_[id]; }
  /// Of all blocks, those whose numbers nobody uses included.
  std::size_t size() const { return blocks_.size(); }
  BlockId id_of(const Block& block) const { return static_cast<BlockId>(&block - blocks_.data()); }

  /// Takes charge of a range that is in its lowest place; returns its blocks.
  const Blocks& add(Range range, Purpose purpose, Place lowest, bool dead, bool confined);
  /// Gives up a range as it was added; none of its blocks is on its way.
  void remove(Range range);
  /// The blocks of a range as it was added. Throws BadConfig for another.
  const Blocks& blocks_in(Range whole) const;
  /// The blocks that hold any byte of a range. Throws BadConfig on foreign bytes.
  Blocks find(Range range) const;
  bool owns(Range range) const;
  /// The first block of the range that holds an address; null where none does.
  const Block* holder_of(Address address) const;
  std::vector<Range> ranges() const;

  GroupId define(Blocks blocks, std::string name);
  /// Leaves a group without blocks, which `assign` gives it anew.
  void empty(GroupId group);
  void assign(GroupId group, Blocks blocks);
  void undefine(GroupId group);
  Group& group(GroupId group) { return groups_[group]; }
  const Group& group(GroupId group) const { return groups_[group]; }
  /// Throws BadConfig on an unknown one.
  void check(GroupId group) const;
  std::size_t group_count() const { return groups_.size(); }
  const std::vector<GroupId>& groups_of(BlockId id) const { return groups_of_[id]; }
  /// The name of a group that a block is part of.
  const std::string& name_of(const Block& block) const;

  /// Holds the sums true across a change of one block.
  class Change {
   public:
    Change(BlockTable& table, Block& block) : table_(table), block_(block) {
      table_.tally(block_, -1);
    }
    ~Change() { table_.tally(block_, +1); }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    BlockTable& table_;
    Block& block_;
  };
  Change change(BlockId id) { return {*this, blocks_[id]}; }

  const Sums& sums() const { return sums_; }
  /// Live scratch blocks away from the card. Safe from any thread.
  std::size_t scratch_on_host() const { return scratch_on_host_; }
  /// Resident, not leased, and let go by the plan, in that order.
  const Blocks& released() const { return released_; }
  /// Whose packed copies on the card nobody wants.
  const Blocks& packed_unwanted() const { return packed_unwanted_; }
  /// Resident and not leased, and wrong there.
  const Blocks& damaged() const { return damaged_; }
  /// Has so much more of the card held, or less.
  void reserve(Bytes bytes) {
    sums_.reserved += bytes;
    sums_.held[Place::card] += bytes;
  }
  void unreserve(Bytes bytes) { reserve(Bytes{0} - bytes); }
  /// So much of what is reserved is for packed bytes to arrive in.
  void stage(Bytes bytes) { sums_.staging = bytes; }
  /// The most unplanned scratch there was since this was last asked.
  Bytes take_most_scratch() { return std::exchange(most_scratch_, sums_.unplanned_scratch); }
  /// Changes whenever a block comes to rest away from the card, or rests there no more.
  std::uint64_t host_version() const { return host_version_; }

  /// `event` takes the Counts to change: the block's, and those of all blocks.
  template <typename Event>
  void count(Block& block, const Event& event) {
    event(block.counts);
    event(totals_);
  }
  /// Of all blocks that there ever were.
  const Counts& totals() const { return totals_; }
  /// Of blocks that never were part of a group.
  Counts ungrouped() const;

 private:
  void tally(const Block& block, int sign);
  static void list(Blocks& blocks, BlockId id, bool present) noexcept;
  BlockId unused();

  const Bytes block_;
  std::vector<Block> blocks_;
  std::vector<BlockId> unused_ids_;
  std::map<Address, std::pair<Range, Blocks>> ranges_;
  std::deque<Group> groups_;  ///< a deque: a reference stays valid while others are defined
  std::vector<GroupId> unused_groups_;
  std::vector<std::vector<GroupId>> groups_of_;  ///< by block
  std::uint64_t last_serial_ = 0;
  Sums sums_;
  std::atomic<std::size_t> scratch_on_host_ = 0;
  Blocks released_;
  Blocks packed_unwanted_;
  Blocks damaged_;
  Bytes most_scratch_ = 0;
  std::uint64_t host_version_ = 0;
  Counts totals_;
  Counts ungrouped_;  ///< of blocks that are gone
};

}  // namespace vramx
