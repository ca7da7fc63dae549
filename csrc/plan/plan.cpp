#include "plan/plan.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "plan/planner.hpp"

namespace vramx {

namespace {

/// Room for fetching ahead that is tried, in blocks of the largest size. Fewer than three leave the
/// link idle while a departure waits for its last use.
constexpr Bytes first_ahead = 3;
constexpr Bytes less_ahead[] = {1, 2};
constexpr Bytes more_ahead[] = {6, 12, 24};
/// Longer traces are planned once, so that planning them takes less than a second too.
constexpr std::size_t most_steps_tried = 100'000;
/// Of longer ones one use of packed copies is tried.
constexpr std::size_t most_steps_packed = 20'000;
/// A pass this close to its limit is not worth another try.
constexpr double good_enough = 1.005;
/// What a second of the link's costs a pass, in seconds. A move that the link has time for is not
/// free: it was measured to hold up a program that is bound by its processor for a sixth of the
/// time that it takes on the link.
constexpr double worth_moving = 0.2;
/// So many shares of what could be kept packed are tried.
constexpr int shares_tried = 8;
/// And so often between the best of them and its neighbours.
constexpr int halvings_tried = 4;

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

Bytes largest_block(const Trace& trace) {
  Bytes largest = 0;
  for (const auto& block : trace.blocks) largest = std::max(largest, block.size);
  return largest;
}

/// Plans of one trace, for which room ahead is found.
class Search {
 public:
  Search(const Trace& trace, Bytes budget, Rates rates)
      : trace_(trace),
        rest_(trace.beside_scratch(budget)),
        rates_(rates),
        largest_(largest_block(trace)),
        planner_(trace, budget, rates) {}

  Plan best() {
    Plan best = planner_.plan(0, 0, {});
    if (best.predicted.moved_in == 0) return best;
    best = with_best_ahead({});
    if (!planner_.packs() || best.predicted.seconds <= good_enough * trace_.seconds()) return best;
    planner_.improve_on(best);
    Plan packed = with_best_ahead(best_use());
    const bool better = packed.predicted.seconds <= best.predicted.seconds && saves(best, packed);
    return better ? packed : best;
  }

 private:
  Bytes first() const { return first_ahead * largest_; }
  /// What is unpacked comes two steps ahead: asking for it takes the host as long as a short step.
  Bytes first(const PackedUse& use) const {
    return use.kept > 0 ? std::max(first(), 2 * trace_.largest_step()) : first();
  }

  /// Whether another plan is worth to be taken for one.
  bool saves(const Plan& one, const Plan& other) const {
    const double saved = cost(one.predicted, rates_) - cost(other.predicted, rates_);
    return saved > (good_enough - 1) * other.predicted.seconds;
  }
  bool good(const Prediction& pass) const {
    const double crossing = static_cast<double>(pass.moved_in) / rates_.up;
    return pass.seconds <=
           good_enough * std::max(trace_.seconds() + unpacking(pass, rates_), crossing);
  }

  Plan with_best_ahead(PackedUse use) const {
    Plan best = planner_.plan(first(use), first(use), use);
    if (trace_.steps.size() > most_steps_tried) return best;
    const auto consider = [&](Bytes ahead, Bytes burst) {
      Plan other = planner_.plan(ahead, burst, use);
      if (saves(best, other)) best = std::move(other);
    };
    // A burst no larger than the room ahead has the link wait least; where few blocks stay any may.
    const auto consider_bursts = [&](Bytes ahead) {
      consider(ahead, ahead);
      consider(ahead, rest_);
    };
    // Less is less to move where the budget is small; more lets uneven passes catch up.
    if (best.ahead * 20 > rest_) {
      for (const Bytes blocks : less_ahead) consider_bursts(blocks * largest_);
    }
    if (!good(best.predicted)) consider(first(), rest_);
    for (const Bytes blocks : more_ahead) {
      const Bytes ahead = std::min(blocks * largest_, planner_.most_ahead());
      if (good(best.predicted) || ahead <= best.ahead) break;
      consider_bursts(ahead);
    }
    return best;
  }

  PackedUse best_use() const {
    PackedUse best{.kept = 1, .streams = true};
    if (trace_.steps.size() > most_steps_packed) return best;
    double least = std::numeric_limits<double>::infinity();
    // Of those that cost about as much the first is taken, so that like times give a like plan.
    const auto consider = [&](PackedUse use) {
      const Plan plan = planner_.plan(first(use), first(use), use);
      const double costs = cost(plan.predicted, rates_);
      if (costs * good_enough >= least) return;
      least = costs;
      best = use;
    };
    for (int share = 0; share <= shares_tried; ++share) {
      for (const bool streams : {false, true}) {
        consider({.kept = static_cast<double>(share) / shares_tried, .streams = streams});
      }
    }
    double apart = 1.0 / shares_tried;
    for (int halving = 0; halving < halvings_tried; ++halving) {
      apart /= 2;
      const PackedUse middle = best;
      for (const double kept : {middle.kept - apart, middle.kept + apart}) {
        if (kept > 0 && kept < 1) consider({.kept = kept, .streams = middle.streams});
      }
    }
    return best;
  }

  const Trace& trace_;
  Bytes rest_;
  Rates rates_;
  Bytes largest_;
  Planner planner_;
};

}  // namespace

double unpacking(const Prediction& pass, Rates rates) {
  return pass.unpacked > 0 ? static_cast<double>(pass.unpacked) / rates.unpack : 0;
}

double cost(const Prediction& pass, Rates rates) {
  return pass.seconds + worth_moving * static_cast<double>(pass.moved_in) / rates.up;
}

Plan make_plan(const Trace& trace, Bytes budget, Rates rates, Bytes ahead) {
  check(trace, trace.beside_scratch(budget));
  return Planner(trace, budget, rates).plan(ahead, ahead, {});
}

Plan make_plan(const Trace& trace, Bytes budget, Rates rates) {
  check(trace, trace.beside_scratch(budget));
  return Search(trace, budget, rates).best();
}

}  // namespace vramx
