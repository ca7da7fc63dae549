#include "table/block_table.hpp"

#include <algorithm>
#include <iterator>

#include "base/error.hpp"

namespace vramx {

using State = Block::State;

void BlockTable::tally(const Block& block, int sign) {
  const auto add = [&](auto& total, auto size) {
    total += sign > 0 ? size : decltype(size){0} - size;
  };
  const Bytes size = block.range.size;
  if (block.state == State::unused) return;
  const Place lowest = block.confined ? Place::card : block.lowest;
  for (Place place = block.at; place <= lowest; place = below(place)) {
    add(sums_.held[place], size);
  }
  if (block.may_fall(block.at)) add(sums_.idle[block.at], size);
  add(sums_.packed, block.packed);
  if (block.packed_on_card) {
    add(sums_.packed_on_card, block.packed_room);
    add(sums_.held[Place::card], block.packed_room);
    if (block.settled()) add(sums_.idle[Place::card], block.packed_room);
    if (block.packed_unwanted()) list(packed_unwanted_, id_of(block), sign > 0);
  }
  if (block.committed()) {
    if (block.leases > 0) {
      add(sums_.leased, size);
    } else if (!block.may_move()) {
      add(sums_.confined, size);
    }
    if (block.evictable()) {
      if (block.unneeded()) add(sums_.unneeded, size);
      if (block.released) list(released_, id_of(block), sign > 0);
      if (block.damaged) list(damaged_, id_of(block), sign > 0);
    }
    if (block.unplanned_scratch()) {
      add(sums_.unplanned_scratch, size);
      most_scratch_ = std::max(most_scratch_, sums_.unplanned_scratch);
    }
    if (block.dead) {
      add(sums_.dead_on_card, std::size_t{1});
      if (block.purpose == Purpose::scratch) add(sums_.dead_scratch, size);
    }
  }
  if (block.away()) ++host_version_;
  if (block.dead || block.resident()) return;
  add(sums_.away, std::size_t{1});
  if (block.away() && block.purpose == Purpose::scratch) {
    scratch_on_host_ += sign > 0 ? 1 : -1;
  }
}

void BlockTable::list(Blocks& blocks, BlockId id, bool present) noexcept {
  if (present) {
    blocks.push_back(id);
  } else {
    std::erase(blocks, id);
  }
}

BlockId BlockTable::unused() {
  if (!unused_ids_.empty()) {
    const BlockId id = unused_ids_.back();
    unused_ids_.pop_back();
    return id;
  }
  blocks_.emplace_back();
  groups_of_.emplace_back();
  released_.reserve(blocks_.capacity());
  packed_unwanted_.reserve(blocks_.capacity());
  damaged_.reserve(blocks_.capacity());
  return static_cast<BlockId>(blocks_.size() - 1);
}

const Blocks& BlockTable::add(Range range, Purpose purpose, Place lowest, bool dead,
                              bool confined) {
  Blocks ids;
  for (Address at = range.start; at < range.end(); at += block_) {
    const BlockId id = unused();
    Block& block = blocks_[id];
    block = Block{};
    block.range = {at, std::min<Bytes>(block_, range.end() - at)};
    block.home = range.start;
    block.serial = ++last_serial_;
    block.purpose = purpose;
    block.state = State::at_rest;
    block.at = block.lowest = block.current_to = lowest;
    block.read_mostly = purpose == Purpose::weights;
    block.dead = dead;
    block.confined = confined;
    tally(block, +1);
    ids.push_back(id);
  }
  sums_.managed += range.size;
  auto& [whole, blocks] = ranges_[range.start];
  whole = range;
  blocks = std::move(ids);
  return blocks;
}

void BlockTable::remove(Range range) {
  for (const BlockId id : blocks_in(range)) {
    Block& block = blocks_[id];
    tally(block, -1);
    if (!block.grouped) ungrouped_ += block.counts;
    for (const GroupId group : groups_of_[id]) std::erase(groups_[group].blocks, id);
    groups_of_[id].clear();
    block = Block{};
    unused_ids_.push_back(id);
  }
  ranges_.erase(range.start);
  sums_.managed -= range.size;
}

const Blocks& BlockTable::blocks_in(Range whole) const {
  const auto it = ranges_.find(whole.start);
  if (it == ranges_.end() || it->second.first.size != whole.size) {
    throw BadConfig("forget takes a range as it was adopted");
  }
  return it->second.second;
}

Blocks BlockTable::find(Range range) const {
  Blocks found;
  for (Address at = range.start; at < range.end();) {
    auto it = ranges_.upper_bound(at);
    if (it == ranges_.begin() || !std::prev(it)->second.first.contains(at)) {
      throw BadConfig("no memory of this session lies at " + std::to_string(at) +
                      "; pass tensors of a managed module or ones made by session.empty or "
                      "inside the scope");
    }
    const auto& [whole, ids] = std::prev(it)->second;
    const auto index = (at - whole.start) / block_;
    found.push_back(ids[index]);
    at = blocks_[ids[index]].range.end();
  }
  return found;
}

bool BlockTable::owns(Range range) const {
  const auto it = ranges_.upper_bound(range.start);
  return it != ranges_.begin() && std::prev(it)->second.first.contains(range);
}

const Block* BlockTable::holder_of(Address address) const {
  auto it = ranges_.upper_bound(address);
  if (it == ranges_.begin() || !(--it)->second.first.contains(address)) return nullptr;
  return &blocks_[it->second.second.front()];
}

std::vector<Range> BlockTable::ranges() const {
  std::vector<Range> all;
  for (const auto& [start, range] : ranges_) all.push_back(range.first);
  return all;
}

GroupId BlockTable::define(Blocks blocks, std::string name) {
  GroupId group = static_cast<GroupId>(groups_.size());
  if (unused_groups_.empty()) {
    groups_.emplace_back();
  } else {
    group = unused_groups_.back();
    unused_groups_.pop_back();
  }
  groups_[group] = {.serial = ++last_serial_, .name = std::move(name)};
  assign(group, std::move(blocks));
  return group;
}

void BlockTable::empty(GroupId group) {
  Blocks& blocks = groups_[group].blocks;
  for (const BlockId id : blocks) std::erase(groups_of_[id], group);
  blocks.clear();
}

void BlockTable::assign(GroupId group, Blocks blocks) {
  std::sort(blocks.begin(), blocks.end());
  blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
  for (const BlockId id : blocks) {
    groups_of_[id].push_back(group);
    blocks_[id].grouped = true;
  }
  groups_[group].blocks = std::move(blocks);
}

void BlockTable::undefine(GroupId group) {
  empty(group);
  unused_groups_.push_back(group);
}

void BlockTable::check(GroupId group) const {
  if (group >= groups_.size()) throw BadConfig("unknown group " + std::to_string(group));
}

const std::string& BlockTable::name_of(const Block& block) const {
  static const std::string nobody = "activations";
  const auto& groups = groups_of_[id_of(block)];
  return groups.empty() ? nobody : groups_[groups.front()].name;
}

Counts BlockTable::ungrouped() const {
  Counts total = ungrouped_;
  for (const Block& block : blocks_) {
    if (!block.grouped) total += block.counts;
  }
  return total;
}

}  // namespace vramx
