// Ranges, groups and the counts.
#include "residency/residency.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"
#include "base/fork.hpp"
#include "residency/block.hpp"

namespace vramx {

using State = Residency::Block::State;

Residency::Residency(std::shared_ptr<Device> device, Settings settings,
                     const MakePolicy& make_policy)
    : device_(std::move(device)),
      settings_(settings),
      budget_(settings.budget),
      generation_(process_generation()) {
  const Facts& facts = device_->facts();
  if (settings_.block == 0 || settings_.block % facts.unit != 0) {
    throw BadConfig("a block is a multiple of " + text(facts.unit) + " on " + facts.name +
                    ", not " + std::to_string(settings_.block) + " bytes");
  }
  if (budget_ < settings_.block || budget_ > facts.capacity) {
    throw BadConfig("a budget is at least one block (" + text(settings_.block) +
                    ") and at most the card's " + text(facts.capacity) + ", not " + text(budget_) +
                    "; pass another budget or a smaller block");
  }
  device_->check_budget(budget_);
  virtual_clock_ = !facts.asynchronous;
  policy_ = make_policy(*this);
  mover_ = std::make_unique<Mover>(device_, settings_.threaded, settings_.profiled);
}

Residency::~Residency() = default;

void Residency::tally(const Block& block, int sign) {
  const auto add = [&](Bytes& total, Bytes size) { total += sign > 0 ? size : Bytes{0} - size; };
  const Bytes size = block.range.size;
  if (block.committed()) {
    add(committed_, size);
    if (block.leases > 0) add(leased_, size);
    if (block.leases == 0 && block.state == State::resident) {
      add(idle_, size);
      if (block.leavable()) add(leavable_, size);
      if (block.released) list_released(block, sign > 0);
    }
    if (block.unplanned_scratch()) {
      add(unplanned_scratch_, size);
      most_scratch_ = std::max(most_scratch_, unplanned_scratch_);
    }
    if (block.dead) add(dead_on_card_, 1);
  }
  if (block.state == State::host) look_from_room_ = 0;  // it may be the next to bring
  if (block.dead || block.state == State::resident || block.state == State::unused) return;
  add(away_, 1);
  if (block.state == State::host && block.use == Use::scratch) {
    scratch_on_host_ += sign > 0 ? 1 : -1;
  }
}

void Residency::list_released(const Block& block, bool present) noexcept {
  const auto id = static_cast<BlockId>(&block - blocks_.data());
  if (present) {
    released_.push_back(id);
  } else {
    std::erase(released_, id);
  }
}

Residency::Lock Residency::locked() const {
  // Before the lock: a fork may have copied it while another thread held it.
  if (generation_ != process_generation()) {
    throw NotOpen(
        "this session belongs to the parent process; a forked child cannot use it: open a "
        "session of its own in the child, or start the child with the spawn method");
  }
  return Lock(mutex_);
}

void Residency::check_open() const {
  if (closed_) {
    throw NotOpen("this session is closed; open another with vramx.oversubscribe()");
  }
}

void Residency::check_not_leased(const Blocks& blocks, const char* action) const {
  const auto held = std::count_if(blocks.begin(), blocks.end(),
                                  [&](BlockId id) { return blocks_[id].leases > 0; });
  if (held > 0) {
    throw InUse(std::string("cannot ") + action + ": " + std::to_string(held) + " of " +
                std::to_string(blocks.size()) +
                " blocks are leased by a running module or pinned; end those uses first");
  }
}

void Residency::adopt(Range range, Use use, bool dead) {
  const Lock lock = locked();
  check_open();
  if (stats_.managed + range.size > settings_.host_limit) {
    throw OutOfMemory("host_limit is reached: " + text(stats_.managed) + " of " +
                          text(settings_.host_limit) + " are managed and " + text(range.size) +
                          " more were asked for. Raise host_limit or manage less",
                      {.asked = range.size,
                       .budget = settings_.host_limit,
                       .resident = stats_.managed,
                       .leased = leased_});
  }
  Blocks ids;
  for (Address at = range.start; at < range.end(); at += settings_.block) {
    BlockId id = static_cast<BlockId>(blocks_.size());
    if (unused_ids_.empty()) {
      blocks_.emplace_back();
      groups_of_.emplace_back();
      released_.reserve(blocks_.capacity());
    } else {
      id = unused_ids_.back();
      unused_ids_.pop_back();
    }
    Block& block = blocks_[id];
    block = Block{};
    block.range = {at, std::min<Bytes>(settings_.block, range.end() - at)};
    block.home = range.start;
    block.serial = ++last_serial_;
    if (journal_) journal_->add(PlacedBlock{block.serial, block.range, use});
    block.use = use;
    block.state = State::host;
    block.read_mostly = use == Use::weights;
    block.dead = dead;
    tally(block, +1);
    ids.push_back(id);
  }
  ranges_[range.start] = {range, std::move(ids)};
  stats_.managed += range.size;
}

void Residency::forget(Range range, bool keep) {
  Lock lock = locked();
  const auto it = ranges_.find(range.start);
  if (it == ranges_.end() || it->second.first.size != range.size) {
    throw BadConfig("forget takes a range as it was adopted");
  }
  const Blocks ids = it->second.second;
  if (keep) {
    take_off(lock, ids, "give up memory", nullptr);
  } else {
    settle_transitions(lock, ids, nullptr);
    check_not_leased(ids, "give up memory");
  }
  for (const BlockId id : ids) {
    device_->wait(blocks_[id].departure);
    for (const auto& fence : blocks_[id].fences(*device_)) device_->wait(fence);
  }
  for (const BlockId id : ids) {
    Block& block = blocks_[id];
    if (block.planned) drop_plan();
    conceal_idle(block);
    if (block.state == State::resident) {
      policy_->left(id);
      if (journal_) {
        journal_->add({.kind = Event::Kind::forgotten,
                       .block = block.serial,
                       .bytes = block.range.size,
                       .submitted = journal_->now()});
      }
    }
    tally(block, -1);
    if (!block.grouped) ungrouped_ += block.counts;
    for (const GroupId group : groups_of_[id]) std::erase(groups_[group], id);
    groups_of_[id].clear();
    block = Block{};
    unused_ids_.push_back(id);
  }
  ranges_.erase(range.start);
  stats_.managed -= range.size;
}

Blocks Residency::find_blocks(Range range) const {
  Blocks found;
  for (Address at = range.start; at < range.end();) {
    auto it = ranges_.upper_bound(at);
    if (it == ranges_.begin() || !std::prev(it)->second.first.contains(at)) {
      throw BadConfig("no memory of this session lies at " + std::to_string(at) +
                      "; pass tensors of a managed module or ones made by session.empty or "
                      "inside the scope");
    }
    const auto& [whole, ids] = std::prev(it)->second;
    const auto index = (at - whole.start) / settings_.block;
    found.push_back(ids[index]);
    at = blocks_[ids[index]].range.end();
  }
  return found;
}

bool Residency::owns(Range range) const {
  // In a forked child nothing changes any more, and the lock may be held by a thread that is gone.
  const Lock lock = generation_ == process_generation() ? locked() : Lock();
  const auto it = ranges_.upper_bound(range.start);
  return it != ranges_.begin() && std::prev(it)->second.first.contains(range);
}

Blocks Residency::blocks_of(Range range) const {
  const Lock lock = locked();
  return find_blocks(range);
}

bool Residency::holds_weights(Address address) const {
  const Lock lock = generation_ == process_generation() ? locked() : Lock();
  auto it = ranges_.upper_bound(address);
  if (it == ranges_.begin() || !(--it)->second.first.contains(address)) return false;
  return blocks_[it->second.second.front()].use == Use::weights;
}

// Each block once, in the order of their addresses within a range.
void Residency::assign(GroupId group, Blocks blocks) {
  std::sort(blocks.begin(), blocks.end());
  blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
  for (const BlockId id : blocks) {
    groups_of_[id].push_back(group);
    blocks_[id].grouped = true;
  }
  groups_[group] = std::move(blocks);
}

GroupId Residency::define(Blocks blocks, std::string name) {
  const Lock lock = locked();
  check_open();
  GroupId group = static_cast<GroupId>(groups_.size());
  if (unused_groups_.empty()) {
    groups_.emplace_back();
    group_records_.emplace_back();
  } else {
    group = unused_groups_.back();
    unused_groups_.pop_back();
  }
  assign(group, std::move(blocks));
  group_records_[group] = {.serial = ++last_serial_, .name = std::move(name)};
  if (journal_) journal_->add(traced(group));
  return group;
}

void Residency::undefine(GroupId group) {
  const Lock lock = locked();
  empty_group(group);
  unused_groups_.push_back(group);
}

void Residency::redefine(GroupId group, Blocks blocks) {
  const Lock lock = locked();
  check_open();
  if (std::ranges::find(in_use_, group) != in_use_.end()) {
    throw InUse("cannot change what " + group_records_.at(group).name +
                " uses while it is running");
  }
  empty_group(group);
  assign(group, std::move(blocks));
  if (journal_) journal_->add(traced(group));
}

void Residency::empty_group(GroupId group) {
  recorder_.clear();  // its uses name the group
  Blocks& blocks = groups_.at(group);
  if (std::ranges::any_of(blocks, [&](BlockId id) { return blocks_[id].planned; })) drop_plan();
  for (const BlockId id : blocks) std::erase(groups_of_[id], group);
  blocks.clear();
}

void Residency::guess(const std::vector<GroupId>& order) {
  const Lock lock = locked();
  check_open();
  order_.seed(order);
}

std::optional<std::uint64_t> Residency::next_use(BlockId block) const {
  std::optional<std::uint64_t> nearest;
  for (const GroupId group : groups_of_[block]) {
    const auto distance = order_.distance(group);
    if (distance && (!nearest || *distance < *nearest)) nearest = distance;
  }
  return nearest;
}

bool Residency::leased(const Blocks& blocks) const {
  const Lock lock = locked();
  return std::all_of(blocks.begin(), blocks.end(),
                     [&](BlockId id) { return blocks_[id].leases > 0; });
}

bool Residency::any_leased(Range range) const {
  const Lock lock = locked();
  const Blocks blocks = find_blocks(range);
  return std::any_of(blocks.begin(), blocks.end(),
                     [&](BlockId id) { return blocks_[id].leases > 0; });
}

bool Residency::on_card(const Blocks& blocks) const {
  const Lock lock = locked();
  return std::all_of(blocks.begin(), blocks.end(),
                     [&](BlockId id) { return blocks_[id].committed(); });
}

Stats Residency::stats() const {
  const Lock lock = locked();
  Stats stats = stats_;
  stats.budget = budget_;
  stats.resident = committed_;
  stats.leased = leased_;
  return stats;
}

std::size_t Residency::scratch_on_host() const { return scratch_on_host_; }

/// The modules that are running, in brackets; nothing where none is.
std::string Residency::names_in_use() const {
  constexpr std::size_t most = 5;
  std::vector<std::string> names;
  for (const GroupId group : in_use_) {
    const std::string& name = group_records_[group].name;
    if (!name.empty() && std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  if (names.empty()) return "";
  std::string all;
  for (std::size_t i = 0; i < std::min(most, names.size()); ++i) {
    all += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > most) all += " and " + std::to_string(names.size() - most) + " more";
  return " (" + all + ")";
}

void Residency::out_of_memory(const Blocks& blocks) const {
  Bytes asked = 0;
  for (const BlockId id : blocks) asked += blocks_[id].range.size;
  const char* where = device_->facts().reads_over_link
                          ? "all of it over the link, since the system refused to pin it so"
                          : "host memory over the link";
  throw OutOfMemory("a use of " + text(asked) + " does not fit the budget of " + text(budget_) +
                        ": " + text(committed_) + " are resident, " + text(leased_) +
                        " of them leased by running modules" + names_in_use() + " and pins, and " +
                        device_->facts().name + " does not read " + where +
                        ". Raise the budget, pin less, or manage smaller modules",
                    {.asked = asked, .budget = budget_, .resident = committed_, .leased = leased_});
}

}  // namespace vramx
