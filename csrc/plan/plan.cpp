#include "plan/plan.hpp"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.hpp"
#include "plan/spans.hpp"

namespace vramx {

namespace {

/// Spans whose worth a byte differs by less are taken to be alike, and thinned out evenly.
constexpr double alike = 1.05;
/// Room for fetching ahead that is tried, in blocks of the largest size. Fewer than three leave the
/// link idle while a departure waits for its last use.
constexpr Bytes first_ahead = 3;
constexpr Bytes less_ahead[] = {1, 2};
constexpr Bytes more_ahead[] = {6, 12, 24};
/// Longer traces are planned once, so that planning them takes less than a second too.
constexpr std::size_t most_steps_tried = 100'000;
/// A pass this close to its limit is not worth another try.
constexpr double good_enough = 1.005;
/// What a second of the link's costs a pass, in seconds. A move that the link has time for is not
/// free: it was measured to hold up a program that is bound by its processor for a sixth of the
/// time that it takes on the link.
constexpr double worth_moving = 0.2;

void check(const Trace& trace, Bytes budget) {
  if (trace.steps.empty()) throw BadConfig("there is nothing to plan: the trace has no steps");
  for (const Step& step : trace.steps) {
    for (const auto block : step.blocks) {
      if (block >= trace.blocks.size()) {
        throw BadConfig("the trace names block " + std::to_string(block) + ", but it has " +
                        std::to_string(trace.blocks.size()) + " blocks, numbered from 0");
      }
    }
    const Bytes held = trace.bytes_of(step);
    if (held > budget) {
      throw OutOfMemory("a step of the trace uses " + text(held) +
                            " at once, more than the budget of " + text(budget) +
                            "; raise the budget or manage smaller modules",
                        {.asked = held, .budget = budget});
    }
  }
}

/// Steps on an axis of compute time; of bytes, where no time is known.
class Axis {
 public:
  explicit Axis(const Trace& trace) {
    const bool timed = trace.seconds() > 0;
    begins_.push_back(0);
    for (const Step& step : trace.steps) {
      double length = step.seconds;
      if (!timed) length = static_cast<double>(trace.bytes_of(step));
      begins_.push_back(begins_.back() + length);
    }
    if (total() > 0) return;
    std::iota(begins_.begin(), begins_.end(), 0.0);
  }

  double total() const { return begins_.back(); }
  double length(const Span& span) const { return begin(span.to) - begins_[span.from]; }
  /// The middle of the step that ends a span, as a part of the pass.
  double part(const Span& span) const {
    const std::size_t step = span.to % steps();
    return (begins_[step] + begins_[step + 1]) / 2 / total();
  }

 private:
  std::size_t steps() const { return begins_.size() - 1; }
  double begin(std::size_t step) const {
    return begins_[step % steps()] + (step >= steps() ? total() : 0);
  }

  std::vector<double> begins_;
};

using Places = std::vector<std::size_t>;  ///< of spans

class Planner {
 public:
  Planner(const Trace& trace, Bytes budget, Rates link)
      : trace_(trace),
        budget_(budget),
        rest_(trace.beside_scratch(budget)),
        link_(link),
        axis_(trace),
        spans_(spans_of(trace)) {
    std::vector<double> worth;
    for (const Span& span : spans_) worth.push_back(axis_.length(span) / cost_a_byte(span));
    by_worth_.resize(spans_.size());
    std::iota(by_worth_.begin(), by_worth_.end(), std::size_t{0});
    std::stable_sort(by_worth_.begin(), by_worth_.end(),
                     [&](std::size_t a, std::size_t b) { return worth[a] < worth[b]; });
    for (auto begin = by_worth_.begin(); begin != by_worth_.end();) {
      const double limit = worth[*begin] * alike;
      const auto end =
          std::find_if(begin, by_worth_.end(), [&](std::size_t at) { return worth[at] > limit; });
      groups_.emplace_back(begin, end);
      begin = end;
    }
    const Bytes least = trace_.least_scratch();
    for (const Step& step : trace_.steps) {
      held_.push_back(static_cast<std::int64_t>(trace_.bytes_of(step) + step.scratch - least));
    }
  }

  Bytes most_ahead() const { return rest_ - trace_.largest_step(); }

  /// With room for so much ahead. What could not leave evenly, for want of blocks, is made up for
  /// in bursts of so many bytes at most.
  Plan plan(Bytes ahead, Bytes burst) const {
    ahead = std::min(ahead, most_ahead());
    const auto room = static_cast<std::int64_t>(rest_ - ahead);
    // Nothing stays beside what the program allocates, be it more than there is room for.
    std::vector<std::int64_t> held = held_;
    for (auto& each : held) each = std::min(each, room);
    Load load(held);
    std::vector<bool> keep(spans_.size());
    for (const Places& group : groups_) keep_most(group, room, burst, load, keep);
    Plan plan;
    plan.ahead = ahead;
    for (const Step& step : trace_.steps) plan.levels.emplace_back(step.blocks.size());
    for (std::size_t i = 0; i < spans_.size(); ++i) {
      plan.levels[spans_[i].from][spans_[i].place] = keep[i] ? Level::kept : Level::streamed;
    }
    plan.predicted = predict(trace_, plan, budget_, link_);
    return plan;
  }

 private:
  std::int64_t size(std::uint32_t block) const {
    return static_cast<std::int64_t>(trace_.blocks[block].size);
  }
  double cost_a_byte(const Span& span) const {
    return trace_.blocks[span.block].written ? 1 + link_.up / link_.down : 1;
  }

  void add(const Places& places, Load& load, int sign) const {
    std::vector<Span> spans;
    std::vector<std::int64_t> bytes;
    for (const std::size_t at : places) {
      spans.push_back(spans_[at]);
      bytes.push_back(sign * size(spans_[at].block));
    }
    load.add(spans, bytes);
  }

  /// Keeps all of a group of spans that are alike, or as many as there is room for.
  void keep_most(const Places& group, std::int64_t room, Bytes burst, Load& load,
                 std::vector<bool>& keep) const {
    Places kept = group;
    add(kept, load, +1);
    std::int64_t leaving = 0;
    // What leaves takes room while it is used, so that a little more must leave than is too much.
    for (int attempt = 0; load.most() > room && attempt < 4; ++attempt) {
      leaving += load.most() - room;
      add(kept, load, -1);
      kept = thinned(group, leaving, burst);
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

  Places keep_what_fits(const Places& places, std::int64_t room, Load& load) const {
    Places kept;
    for (const std::size_t at : places) {
      const std::int64_t bytes = size(spans_[at].block);
      if (load.most(spans_[at]) + bytes > room) continue;
      load.add(spans_[at], bytes);
      kept.push_back(at);
    }
    return kept;
  }

  /// The group without `leaving` bytes, taken away evenly along the axis. After a while with little
  /// to take no more than a burst is made up for at once; the rest is spread evenly again.
  Places thinned(const Places& group, std::int64_t leaving, Bytes burst) const {
    Places by_need = group;
    std::stable_sort(by_need.begin(), by_need.end(), [&](std::size_t a, std::size_t b) {
      return axis_.part(spans_[a]) < axis_.part(spans_[b]);
    });
    auto left = static_cast<double>(leaving);
    double rate = 1;  // so many times what would be even if there were something to take throughout
    while (left > 0 && !by_need.empty()) {
      double taken = 0;
      double forgone = 0;
      std::erase_if(by_need, [&](std::size_t at) {
        const auto bytes = static_cast<double>(size(spans_[at].block));
        const double due = rate * left * axis_.part(spans_[at]) - taken;
        forgone = std::max(forgone, due - std::max(static_cast<double>(burst), bytes));
        if (taken >= left || bytes / 2 > due - forgone) return false;
        taken += bytes;
        return true;
      });
      if (taken == 0) {
        taken = static_cast<double>(size(spans_[by_need.front()].block));
        by_need.erase(by_need.begin());
      }
      rate *= std::max(1.0, left / taken);
      left -= taken;
    }
    return by_need;
  }

  const Trace& trace_;
  Bytes budget_;
  Bytes rest_;  ///< of it, for blocks
  Rates link_;
  Axis axis_;
  std::vector<Span> spans_;
  Places by_worth_;
  std::vector<Places> groups_;
  std::vector<std::int64_t> held_;
};

}  // namespace

double cost(const Prediction& pass, Rates link) {
  return pass.seconds + worth_moving * static_cast<double>(pass.moved_in) / link.up;
}

Plan make_plan(const Trace& trace, Bytes budget, Rates link, Bytes ahead) {
  check(trace, trace.beside_scratch(budget));
  return Planner(trace, budget, link).plan(ahead, ahead);
}

Plan make_plan(const Trace& trace, Bytes budget, Rates link) {
  const Bytes rest = trace.beside_scratch(budget);
  check(trace, rest);
  const Planner planner(trace, budget, link);
  Plan best = planner.plan(0, 0);
  if (best.predicted.moved_in == 0) return best;
  Bytes largest = 0;
  for (const auto& block : trace.blocks) largest = std::max(largest, block.size);
  const Bytes first = first_ahead * largest;
  best = planner.plan(first, first);
  if (trace.steps.size() > most_steps_tried) return best;
  const auto consider = [&](Bytes ahead, Bytes burst) {
    Plan other = planner.plan(ahead, burst);
    const double saved = cost(best.predicted, link) - cost(other.predicted, link);
    if (saved > (good_enough - 1) * other.predicted.seconds) best = std::move(other);
  };
  // A burst no larger than the room ahead has the link wait least; where few blocks stay any may.
  const auto consider_bursts = [&](Bytes ahead) {
    consider(ahead, ahead);
    consider(ahead, rest);
  };
  const auto good = [&] {
    const double crossing = static_cast<double>(best.predicted.moved_in) / link.up;
    return best.predicted.seconds <= good_enough * std::max(trace.seconds(), crossing);
  };
  // Less is less to move where the budget is small; more lets uneven passes catch up.
  if (best.ahead * 20 > rest) {
    for (const Bytes blocks : less_ahead) consider_bursts(blocks * largest);
  }
  if (!good()) consider(first, rest);
  for (const Bytes blocks : more_ahead) {
    if (good() || blocks * largest > planner.most_ahead()) break;
    consider_bursts(blocks * largest);
  }
  return best;
}

}  // namespace vramx
