// What can be told of the present, and of what happens while a journal is kept.
#include "residency/residency.hpp"

namespace vramx {

GroupUsage Residency::usage(GroupId group) const {
  const Lock lock = locked();
  table_.check(group);
  const Group& record = table_.group(group);
  GroupUsage usage{.uses = record.uses, .stall_seconds = record.stall_seconds, .blocks = {}};
  for (const BlockId id : table_.group(group).blocks) {
    const Block& block = table_[id];
    usage.blocks.push_back({.range = block.range,
                            .on_card = block.committed(),
                            .packed = block.packed,
                            .packed_on_card = block.packed_on_card,
                            .kept = strategy_->always_keeps(id),
                            .counts = block.counts});
  }
  return usage;
}

Counts Residency::ungrouped() const {
  const Lock lock = locked();
  return table_.ungrouped();
}

std::optional<PlanUsage> Residency::plan() const {
  const Lock lock = locked();
  return strategy_->plan();
}

void Residency::begin_trace(Stream stream, std::size_t most_events) {
  const Lock lock = locked();
  check_open();
  notes_.begin(*device_, stream, most_events, budget_);
  if (const auto plan = strategy_->plan()) notes_.plan(plan->predicted);
}

Log Residency::end_trace(const Poll& poll) {
  std::unique_ptr<Journal> journal;
  {
    Lock lock = locked();
    finish_moves(lock, moves_->last_job(), poll);
    journal = notes_.end();
  }
  return journal->finish();
}

}  // namespace vramx
