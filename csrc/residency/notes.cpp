#include "residency/notes.hpp"

#include <syscall.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "base/error.hpp"

namespace vramx {

namespace {

std::uint64_t this_thread() {
  static thread_local const auto number = static_cast<std::uint64_t>(syscall(SYS_gettid));
  return number;
}

const char* name_of(FetchMode how) {
  static constexpr std::array names{"duplicate", "move", "empty"};
  return names[static_cast<std::size_t>(how)];
}

const char* name_of(EvictMode how) {
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

using Kind = Event::Kind;

void Notes::begin(Device& device, Stream stream, std::size_t most_events, Bytes budget) {
  if (journal_) {
    throw InUse("a trace of this session is being recorded already; end that one first");
  }
  Log start{.budget = budget, .reserved = table_.sums().reserved};
  for (BlockId id = 0; id < table_.size(); ++id) {
    const Block& block = table_[id];
    if (block.state == Block::State::unused) continue;
    start.blocks.push_back({block.serial, block.range, block.purpose});
    if (block.committed()) start.resident.push_back(block.serial);
    if (block.packed_on_card) start.held.push_back({block.serial, block.packed_room});
  }
  for (GroupId group = 0; group < table_.group_count(); ++group) {
    if (!table_.group(group).blocks.empty()) start.groups.push_back(traced(group));
  }
  journal_ = std::make_unique<Journal>(device, stream, most_events, std::move(start));
  ++number_;
}

std::unique_ptr<Journal> Notes::end() {
  if (!journal_) throw InUse("no trace of this session is being recorded");
  return std::move(journal_);
}

void Notes::placed(const Block& block) {
  if (journal_) journal_->add(PlacedBlock{block.serial, block.range, block.purpose});
}

void Notes::forgotten(const Block& block) {
  if (!journal_) return;
  journal_->add({.kind = Kind::forgotten,
                 .block = block.serial,
                 .bytes = block.range.size,
                 .submitted = journal_->now()});
}

void Notes::let_go(const Block& block) {
  if (!journal_) return;
  const double now = journal_->now();
  journal_->add({.kind = Kind::let_go,
                 .cause = evict_causes[static_cast<std::size_t>(EvictCause::evict)],
                 .how = vramx::name_of(EvictMode::drop),
                 .block = block.serial,
                 .bytes = block.packed_room,
                 .submitted = now,
                 .began = now,
                 .ended = now});
}

void Notes::defined(GroupId group) {
  if (journal_) journal_->add(traced(group));
}

void Notes::correct_start(const Block& block, bool resident) {
  if (journal_) journal_->correct_start(block.serial, resident);
}

void Notes::correct_start_packed(const Block& block) {
  if (journal_)
    journal_->correct_start(HeldPacked{block.serial, block.packed_room}, block.packed_on_card);
}

TracedGroup Notes::traced(GroupId group) const {
  TracedGroup traced{
      .serial = table_.group(group).serial, .name = table_.group(group).name, .blocks = {}};
  for (const BlockId id : table_.group(group).blocks) traced.blocks.push_back(table_[id].serial);
  return traced;
}

void Notes::move(const Block& block, const Down& hop, double submitted, const Issue& issue,
                 const Fence& over) {
  if (!journal_) return;
  const Kind kind = hop.packed                ? Kind::let_go
                    : hop.from == Place::card ? Kind::evicted
                                              : Kind::lowered;
  const bool copied = hop.how == EvictMode::write_back;
  add({.kind = kind,
       .cause = evict_causes[static_cast<std::size_t>(hop.why)],
       .how = vramx::name_of(hop.how),
       .block = block.serial,
       .bytes = hop.packed ? block.packed_room : block.range.size,
       .crossed = copied ? block.range.size : 0,
       .submitted = submitted},
      copied, issue, over);
}

void Notes::move(const Block& block, const Up& hop, double submitted, const Issue& issue,
                 const Fence& over) {
  if (!journal_) return;
  const bool copied = hop.how != FetchMode::empty;
  const Kind kind = hop.packed                ? Kind::held
                    : hop.to() == Place::card ? Kind::fetched
                                              : Kind::raised;
  add({.kind = kind,
       .cause = fetch_causes[static_cast<std::size_t>(hop.why)],
       .how = vramx::name_of(hop.how),
       .block = block.serial,
       .bytes = hop.packed ? block.packed_room : block.range.size,
       .crossed = copied ? hop.crossing : 0,
       .submitted = submitted},
      copied, issue, over);
}

void Notes::add(Event move, bool crosses, const Issue& issue, const Fence& over) {
  move.lane = issue.lane;
  move.request = issue.request;
  if (journal_->virtual_clock()) {
    if (!over) move.began = move.ended = journal_->now();
    move.to = over;
  } else {
    move.began = journal_->since_start(issue.began);
    move.ended = journal_->since_start(issue.ended);
    // A fence without a time can be waited for, but not be read.
    if (crosses) move.to = issue.to;
  }
  // What crosses no link is over when it was issued.
  if (crosses) move.from = issue.from;
  journal_->add(std::move(move));
}

void Notes::use(GroupId group, Kind kind, Stream stream, Fence from, Fence to) {
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

void Notes::failure(const std::exception_ptr& error) {
  if (!journal_) return;
  journal_->add({.kind = Kind::failed,
                 .thread = this_thread(),
                 .submitted = journal_->now(),
                 .text = text(error)});
}

void Notes::budget(Bytes budget) {
  if (!journal_) return;
  journal_->add({.kind = Kind::budget, .bytes = budget, .submitted = journal_->now()});
}

void Notes::reserved(Bytes bytes) {
  if (!journal_) return;
  journal_->add({.kind = Kind::reserved, .bytes = bytes, .submitted = journal_->now()});
}

void Notes::plan(const Prediction& plan) {
  if (!journal_) return;
  journal_->add({.kind = Kind::plan,
                 .bytes = plan.moved_in,
                 .bytes_out = plan.moved_out,
                 .seconds = plan.seconds,
                 .submitted = journal_->now()});
}

}  // namespace vramx
