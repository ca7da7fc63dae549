// What can be told of the present and, while a journal is kept, of what happens.
#include <syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.hpp"
#include "residency/residency.hpp"

namespace vramx {

namespace {

std::uint64_t this_thread() {
  static thread_local const auto number = static_cast<std::uint64_t>(syscall(SYS_gettid));
  return number;
}

const char* name_of(Arrive how) {
  static constexpr std::array names{"duplicate", "move", "empty"};
  return names[static_cast<std::size_t>(how)];
}

const char* name_of(Leave how) {
  static constexpr std::array names{"drop", "write_back", "discard"};
  return names[static_cast<std::size_t>(how)];
}

std::string text(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& what) {
    return what.what();
  } catch (...) {
    return "the wait was ended";
  }
}

}  // namespace

using State = Block::State;
using Kind = Event::Kind;

GroupUsage Residency::usage(GroupId group) const {
  const Lock lock = locked();
  table_.check(group);
  const Group& record = table_.group(group);
  GroupUsage usage{.uses = record.uses, .stall_seconds = record.stall_seconds, .blocks = {}};
  for (const BlockId id : table_.group(group).blocks) {
    const Block& block = table_[id];
    usage.blocks.push_back({.range = block.range,
                            .on_card = block.committed(),
                            .stays = strategy_->always_keeps(id),
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

TracedGroup Residency::traced(GroupId group) const {
  TracedGroup traced{
      .serial = table_.group(group).serial, .name = table_.group(group).name, .blocks = {}};
  for (const BlockId id : table_.group(group).blocks) traced.blocks.push_back(table_[id].serial);
  return traced;
}

void Residency::begin_trace(Stream stream, std::size_t most_events) {
  const Lock lock = locked();
  check_open();
  if (journal_) {
    throw InUse("a trace of this session is being recorded already; end that one first");
  }
  Log start{.budget = budget_};
  for (BlockId id = 0; id < table_.size(); ++id) {
    const Block& block = table_[id];
    if (block.state == State::unused) continue;
    start.blocks.push_back({block.serial, block.range, block.use});
    if (block.committed()) start.resident.push_back(block.serial);
  }
  for (GroupId group = 0; group < table_.group_count(); ++group) {
    if (!table_.group(group).blocks.empty()) start.groups.push_back(traced(group));
  }
  journal_ = std::make_unique<Journal>(*device_, stream, most_events, std::move(start));
  ++journals_;
  if (const auto plan = strategy_->plan()) note_plan(plan->predicted);
}

Log Residency::end_trace(const Poll& poll) {
  std::unique_ptr<Journal> journal;
  {
    Lock lock = locked();
    finish_moves(lock, last_job_, poll);
    journal = std::move(journal_);
  }
  if (!journal) throw InUse("no trace of this session is being recorded");
  return journal->finish();
}

void Residency::note_move(const Block& block, const Moves& moves, const Outcome& outcome,
                          std::size_t issue, const Fence& over) {
  const bool came = block.state == State::resident;
  const bool crosses = came ? block.arriving != Arrive::empty : block.leaving == Leave::write_back;
  const Issue& at = outcome.issues.at(issue);
  journal_->add(
      {.kind = came ? Kind::arrived : Kind::left,
       .cause = came ? brought_names[static_cast<std::size_t>(block.brought_for)]
                     : left_names[static_cast<std::size_t>(block.left_for)],
       .how = came ? vramx::name_of(block.arriving) : vramx::name_of(block.leaving),
       .lane = at.lane,
       .request = at.request,
       .block = block.serial,
       .bytes = block.range.size,
       .submitted = moves.submitted,
       .began = journal_->virtual_clock() ? Event::unknown : journal_->since_start(at.began),
       .ended = journal_->virtual_clock() ? Event::unknown : journal_->since_start(at.ended),
       // What crosses no link is over when it was issued.
       .from = crosses ? at.from : nullptr,
       // A fence without a time can be waited for, but not be read.
       .to = journal_->virtual_clock() ? over
             : crosses                 ? at.to
                                       : nullptr});
}

void Residency::note_use(GroupId group, Kind kind, Stream stream, Fence from, Fence to) {
  const double now = journal_->now();
  journal_->add({.kind = kind,
                 .group = table_.group(group).serial,
                 .stream = stream,
                 .thread = this_thread(),
                 .submitted = now,
                 .began = from ? now : Event::unknown,
                 .ended = now,
                 .from = std::move(from),
                 .to = std::move(to)});
}

void Residency::note_failure(const std::exception_ptr& error) {
  journal_->add({.kind = Kind::failed,
                 .thread = this_thread(),
                 .submitted = journal_->now(),
                 .text = text(error)});
}

void Residency::note_budget() {
  journal_->add({.kind = Kind::budget, .bytes = budget_, .submitted = journal_->now()});
}

void Residency::note_plan(const Prediction& plan) {
  journal_->add({.kind = Kind::plan,
                 .bytes = plan.moved_in,
                 .bytes_out = plan.moved_out,
                 .seconds = plan.seconds,
                 .submitted = journal_->now()});
}

}  // namespace vramx
