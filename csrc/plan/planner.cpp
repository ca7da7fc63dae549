#include "plan/planner.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace vramx {

namespace {

/// Spans whose worth a byte differs by less are taken to be alike, and thinned out evenly.
constexpr double alike = 1.05;

}  // namespace

Planner::Planner(const Trace& trace, Bytes budget, Rates rates)
    : trace_(trace),
      budget_(budget),
      rest_(trace.beside_scratch(budget)),
      rates_(rates),
      axis_(trace),
      spans_(spans_of(trace)) {
  const Bytes least = trace_.least_scratch();
  for (const Step& step : trace_.steps) {
    held_.push_back(static_cast<std::int64_t>(trace_.bytes_of(step) + step.scratch - least));
  }
}

Plan Planner::plan(Bytes ahead, Bytes burst, PackedUse use) const {
  ahead = std::min(ahead, most_ahead());
  const auto room = static_cast<std::int64_t>(rest_ - ahead);
  // Nothing stays beside what the program allocates, be it more than there is room for.
  Loads held = held_;
  for (auto& each : held) each = std::min(each, room);
  std::vector<Level> away(trace_.blocks.size(), Level::streamed);  // by block, where not kept
  for (std::uint32_t block = 0; block < away.size(); ++block) {
    const TracedBlock& each = trace_.blocks[block];
    const bool packed = use.streams && packable(each, rates_);
    if (packed || crosses_packed_only(each, rates_)) away[block] = Level::streamed_packed;
  }
  if (use.kept > 0) {
    const Bytes packed = keep_packed(use.kept, room, burst, held, away);
    for (auto& each : held) each += static_cast<std::int64_t>(packed);
  }
  Load load(held);
  std::vector<bool> keep(spans_.size());
  for (const Places& group : by_worth(away)) keep_most(group, room, burst, load, keep);
  Plan plan;
  plan.ahead = ahead;
  for (const Step& step : trace_.steps) plan.levels.emplace_back(step.blocks.size());
  for (std::size_t i = 0; i < spans_.size(); ++i) {
    plan.levels[spans_[i].from][spans_[i].place] = keep[i] ? Level::kept : away[spans_[i].block];
  }
  plan.predicted = predict(trace_, plan, budget_, rates_);
  return plan;
}

bool Planner::packs() const {
  return std::any_of(trace_.blocks.begin(), trace_.blocks.end(),
                     [&](const TracedBlock& block) { return packable(block, rates_); });
}

/// Of time on the link and of unpacking, in seconds of the link's for raw bytes.
double Planner::cost_a_byte(const Span& span, Level away) const {
  const TracedBlock& block = trace_.blocks[span.block];
  if (away == Level::kept_packed) return unpacking();
  if (away == Level::streamed_packed) {
    return static_cast<double>(block.packed) / static_cast<double>(block.size) + unpacking();
  }
  return block.written ? 1 + rates_.up / rates_.down : 1;
}

/// All spans in groups that are alike, those first that are worth most to keep.
std::vector<Planner::Places> Planner::by_worth(const std::vector<Level>& away) const {
  std::vector<double> worth;
  for (const Span& span : spans_) {
    worth.push_back(axis_.length(span) / cost_a_byte(span, away[span.block]));
  }
  Places order(spans_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return worth[a] < worth[b]; });
  std::vector<Places> groups;
  for (auto begin = order.begin(); begin != order.end();) {
    const double limit = worth[*begin] * alike;
    const auto end =
        std::find_if(begin, order.end(), [&](std::size_t at) { return worth[at] > limit; });
    groups.emplace_back(begin, end);
    begin = end;
  }
  return groups;
}

Taken Planner::taken(std::size_t at, Bytes bytes) const {
  return {at, axis_.part(spans_[at]), static_cast<double>(bytes)};
}

void Planner::add(const Places& places, Load& load, int sign) const {
  std::vector<Span> spans;
  std::vector<std::int64_t> bytes;
  for (const std::size_t at : places) {
    spans.push_back(spans_[at]);
    bytes.push_back(sign * size(spans_[at].block));
  }
  load.add(spans, bytes);
}

/// Keeps all of a group of spans that are alike, or as many as there is room for.
void Planner::keep_most(const Places& group, std::int64_t room, Bytes burst, Load& load,
                        std::vector<bool>& keep) const {
  Places kept = group;
  add(kept, load, +1);
  std::int64_t leaving = 0;
  // What leaves takes room while it is used, so that a little more must leave than is too much.
  for (int attempt = 0; load.most() > room && attempt < 4; ++attempt) {
    leaving += load.most() - room;
    add(kept, load, -1);
    std::vector<Taken> all;
    for (const std::size_t at : group) {
      all.push_back(taken(at, trace_.blocks[spans_[at].block].size));
    }
    kept.clear();
    for (const Taken& each :
         thinned(std::move(all), static_cast<double>(leaving), static_cast<double>(burst))) {
      kept.push_back(each.at);
    }
    add(kept, load, +1);
  }
  if (load.most() > room) {
    add(kept, load, -1);
    kept = keep_what_fits(kept, room, load);
  }
  for (const std::size_t at : kept) keep[at] = true;
  if (kept.size() == group.size()) return;
  Places rest;
  for (const std::size_t at : group) {
    if (!keep[at]) rest.push_back(at);
  }
  for (const std::size_t at : keep_what_fits(rest, room, load)) keep[at] = true;
}

Planner::Places Planner::keep_what_fits(const Places& places, std::int64_t room, Load& load) const {
  Places kept;
  for (const std::size_t at : places) {
    const std::int64_t bytes = size(spans_[at].block);
    if (load.most(spans_[at]) + bytes > room) continue;
    load.add(spans_[at], bytes);
    kept.push_back(at);
  }
  return kept;
}

// A block's packed copy takes room all the time, and saves what streaming costs for whatever is not
// kept raw. The span that the raw plan streams and that is least worth its room is just worth it
// there: others save less, and least where unpacking takes as long.
void Planner::improve_on(const Plan& raw) {
  const auto streamed = [&](const Span& span) {
    return cost_a_byte(span, crosses_packed_only(trace_.blocks[span.block], rates_)
                                 ? Level::streamed_packed
                                 : Level::streamed);
  };
  double just_worth = axis_.total();
  for (const Span& span : spans_) {
    if (raw.levels[span.from][span.place] != Level::kept) {
      just_worth = std::min(just_worth, axis_.length(span) / streamed(span));
    }
  }
  constexpr auto none = std::numeric_limits<std::size_t>::max();
  std::vector<Candidate> by_block(trace_.blocks.size(), {.longest = none});
  for (std::size_t at = 0; at < spans_.size(); ++at) {
    if (!packable(trace_.blocks[spans_[at].block], rates_)) continue;
    const double length = axis_.length(spans_[at]);
    const double room = just_worth > 0 ? length / just_worth : 1;
    Candidate& block = by_block[spans_[at].block];
    block.gain += std::min(streamed(spans_[at]), room) - std::min(unpacking(), room);
    if (block.longest == none || length > axis_.length(spans_[block.longest])) block.longest = at;
  }
  std::vector<Candidate> found;
  for (Candidate each : by_block) {
    if (each.longest == none) continue;
    const TracedBlock& block = trace_.blocks[spans_[each.longest].block];
    each.gain *= static_cast<double>(block.size) / static_cast<double>(block.packed_room);
    if (each.gain > 0) found.push_back(each);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Candidate& a, const Candidate& b) { return a.gain > b.gain; });
  candidates_.clear();
  double limit = 0;
  for (const Candidate& each : found) {
    if (candidates_.empty() || each.gain < limit) {
      candidates_.emplace_back();
      limit = each.gain / alike;
    }
    candidates_.back().push_back(each);
  }
}

/// Keeps blocks packed, a share of as many as there is room for; or of as few as let all others
/// stay raw. Returns the bytes that those take.
Bytes Planner::keep_packed(double share, std::int64_t room, Bytes burst, const Loads& held,
                           std::vector<Level>& away) const {
  double raw = 0;
  double packed = 0;
  for (const auto& group : candidates_) {
    for (const Candidate& each : group) {
      raw += static_cast<double>(size(spans_[each.longest].block));
      packed += static_cast<double>(trace_.blocks[spans_[each.longest].block].packed_room);
    }
  }
  if (packed == 0) return 0;
  const auto beside = static_cast<double>(room - *std::max_element(held.begin(), held.end()));
  const double most = std::min(packed, beside);
  double wanted = 0;
  // What is packed frees the rest of its room, whichever it is; a little more where sizes differ.
  for (int attempt = 0; wanted < most && attempt < 8; ++attempt) {
    std::vector<Level> tried = away;
    const auto taken = static_cast<std::int64_t>(choose_packed(wanted, burst, tried));
    const std::int64_t over = taken + most_beside(tried, held) - room;
    if (over <= 0) break;
    wanted = std::min(most, wanted + static_cast<double>(over) * packed / (raw - packed));
  }
  return choose_packed(share * wanted, burst, away);
}

/// Marks what is kept packed in `most` bytes: what gains most, and of what gains alike as much as
/// there is room for, so that the others are spread evenly.
Bytes Planner::choose_packed(double most, Bytes burst, std::vector<Level>& away) const {
  Bytes total = 0;
  for (const auto& group : candidates_) {
    std::vector<Taken> all;
    double bytes = 0;
    for (const Candidate& each : group) {
      all.push_back(taken(each.longest, trace_.blocks[spans_[each.longest].block].packed_room));
      bytes += all.back().bytes;
    }
    const double left = most - static_cast<double>(total);
    for (const Taken& each : thinned(std::move(all), bytes - left, static_cast<double>(burst))) {
      const std::uint32_t block = spans_[each.at].block;
      away[block] = Level::kept_packed;
      total += trace_.blocks[block].packed_room;
    }
    if (bytes > left) break;
  }
  return total;
}

/// The most bytes at a step if all that is not kept packed were kept raw.
std::int64_t Planner::most_beside(const std::vector<Level>& away, const Loads& held) const {
  Places raw;
  for (std::size_t at = 0; at < spans_.size(); ++at) {
    if (away[spans_[at].block] != Level::kept_packed) raw.push_back(at);
  }
  Load load(held);
  add(raw, load, +1);
  return load.most();
}

}  // namespace vramx
