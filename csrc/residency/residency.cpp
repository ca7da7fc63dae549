// Ranges, groups and the counts.
#include "residency/residency.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"
#include "base/fork.hpp"
#include "residency/refusals.hpp"

namespace vramx {

Residency::Residency(std::shared_ptr<Device> device, Settings settings,
                     const MakeStrategy& make_strategy)
    : device_(std::move(device)),
      settings_(settings),
      budget_(settings.budget),
      generation_(process_generation()),
      table_(settings.block),
      notes_(table_) {
  const Facts& facts = device_->facts();
  for (const Purpose purpose : {Purpose::weights, Purpose::scratch}) {
    const Bytes unit = device_->memory(purpose).traits().unit;
    if (settings_.block > 0 && settings_.block % unit == 0) continue;
    throw BadConfig("a block is a multiple of " + text(unit) + " on " + facts.name + ", not " +
                    std::to_string(settings_.block) + " bytes");
  }
  if (budget_ < settings_.block || budget_ > facts.capacity) {
    throw BadConfig("a budget is at least one block (" + text(settings_.block) +
                    ") and at most the card's " + text(facts.capacity) + ", not " + text(budget_) +
                    "; pass another budget or a smaller block");
  }
  device_->memory(Purpose::weights).check_budget(budget_);
  strategy_ = make_strategy({.table = table_,
                             .device = *device_,
                             .budget = budget_,
                             .block = settings_.block,
                             .has_plan = [this](const Prediction& plan) { notes_.plan(plan); }});
  moves_ = std::make_unique<Moves>(device_, table_, *strategy_, notes_, settings_, budget_,
                                   [this](std::uint64_t job, Outcome& outcome) {
                                     const Lock lock = locked();
                                     moves_->settle(job, outcome);
                                     changed_.notify();
                                   });
}

Residency::~Residency() = default;

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

void Residency::adopt(Range range, Purpose purpose, bool dead) {
  const Lock lock = locked();
  check_open();
  const Place lowest = device_->memory(purpose).lowest();
  const bool confined = device_->memory(purpose).confines(purpose);
  const Bytes managed = table_.sums().held[Place::host];
  if (lowest == Place::host && !confined && managed + range.size > settings_.host_limit) {
    throw OutOfMemory("host_limit is reached: " + text(managed) + " of " +
                          text(settings_.host_limit) + " are managed and " + text(range.size) +
                          " more were asked for. Raise host_limit or manage less",
                      {.asked = range.size,
                       .budget = settings_.host_limit,
                       .resident = managed,
                       .leased = table_.sums().leased});
  }
  for (const BlockId id : table_.add(range, purpose, lowest, dead, confined)) {
    notes_.placed(table_[id]);
  }
}

void Residency::forget(Range range, bool keep) {
  Lock lock = locked();
  const Blocks ids = table_.blocks_in(range);
  if (keep) {
    put_on_host(lock, ids, "give up memory", nullptr);
  } else {
    settle(lock, ids, nullptr);
    check_not_leased(ids, "give up memory", table_);
  }
  for (const BlockId id : ids) {
    device_->streams().wait(table_[id].departure);
    for (const auto& fence : table_[id].fences(device_->streams())) device_->streams().wait(fence);
  }
  find_damage();
  for (const BlockId id : ids) {
    Block& block = table_[id];
    strategy_->forgets(id);
    moves_->unmap_idle(block);
    if (block.packed_on_card) notes_.let_go(block);
    if (!block.resident()) {
      strategy_->moved(id, block.at, Place::card);
      continue;
    }
    strategy_->evicted(id);
    notes_.forgotten(block);
  }
  table_.remove(range);
  names_.forget(range);
  if (table_.sums().packed == 0 && table_.sums().staging > 0) follow_staging(lock, nullptr);
}

bool Residency::owns(Range range) const {
  // In a forked child nothing changes any more, and the lock may be held by a thread that is gone.
  const Lock lock = generation_ == process_generation() ? locked() : Lock();
  return table_.owns(range);
}

Blocks Residency::blocks_of(Range range) const {
  const Lock lock = locked();
  return table_.find(range);
}

bool Residency::holds_weights(Address address) const {
  const Lock lock = generation_ == process_generation() ? locked() : Lock();
  const Block* const block = table_.holder_of(address);
  return block != nullptr && block->purpose == Purpose::weights;
}

GroupId Residency::define(Blocks blocks, std::string name) {
  const Lock lock = locked();
  check_open();
  const GroupId group = table_.define(std::move(blocks), std::move(name));
  notes_.defined(group);
  return group;
}

void Residency::undefine(GroupId group) {
  const Lock lock = locked();
  table_.check(group);
  strategy_->redefines(group);
  table_.undefine(group);
}

void Residency::redefine(GroupId group, Blocks blocks) {
  const Lock lock = locked();
  check_open();
  table_.check(group);
  if (std::ranges::find(in_use_, group) != in_use_.end()) {
    throw InUse("cannot change what " + table_.group(group).name + " uses while it is running");
  }
  strategy_->redefines(group);
  table_.empty(group);
  table_.assign(group, std::move(blocks));
  notes_.defined(group);
}

void Residency::guess(const std::vector<GroupId>& order) {
  const Lock lock = locked();
  check_open();
  strategy_->guess(order);
}

bool Residency::all(const Blocks& blocks, const std::function<bool(const Block&)>& are) const {
  const Lock lock = locked();
  return std::ranges::all_of(blocks, [&](BlockId id) { return are(table_[id]); });
}

bool Residency::on_card(const Blocks& blocks) const { return all(blocks, &Block::committed); }

Stats Residency::stats() const {
  const Lock lock = locked();
  Stats stats{table_.totals()};
  stats.budget = budget_;
  stats.managed = table_.sums().managed;
  stats.peak_resident = moves_->peak_resident();
  stats.failed_moves = moves_->failed();
  stats.stall_seconds = stall_seconds_;
  stats.resident = table_.sums().held[Place::card];
  stats.leased = table_.sums().leased;
  stats.packed_on_host = table_.sums().packed;
  stats.packed_on_card = table_.sums().packed_on_card;
  return stats;
}

std::size_t Residency::scratch_on_host() const { return table_.scratch_on_host(); }

}  // namespace vramx
