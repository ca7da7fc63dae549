// Plans over packed copies: what is kept packed or crosses packed, and when it pays.
#include <cmath>
#include <random>

#include "check.hpp"
#include "plan/bound.hpp"
#include "plan/plan.hpp"
#include "plans.hpp"

using namespace vramx;
using namespace plans;

namespace {

constexpr double share = 0.683;
constexpr Rates packing{.up = 50e9, .down = 50e9, .unpack = 1600e9};
constexpr auto packed_block = static_cast<Bytes>(share * block);

/// The trace with packed copies of all blocks, or of most, of sizes at random.
Trace packed(Trace trace) {
  for (auto& each : trace.blocks) {
    each.packed = each.packed_room = static_cast<Bytes>(share * static_cast<double>(each.size));
  }
  return trace;
}

Trace mostly_packed(Trace trace, std::mt19937& random) {
  std::uniform_real_distribution<double> part(0, 1);
  for (auto& each : trace.blocks) {
    each.written = part(random) < 0.1;
    if (part(random) > 0.8) continue;
    each.packed = static_cast<Bytes>((0.3 + 0.65 * part(random)) * static_cast<double>(each.size));
    each.packed_room =
        each.packed + static_cast<Bytes>(0.05 * part(random) * static_cast<double>(each.size));
  }
  return trace;
}

/// Uneven steps that the link mostly bounds, passes in a pass, and scratch now and then.
Trace varied(std::mt19937& random) {
  Trace trace = mostly_packed(uneven(random), random);
  const double scale = std::uniform_real_distribution<double>(0, 0.4)(random);
  for (Step& step : trace.steps) step.seconds *= scale;
  const auto once = trace.steps;
  for (auto repeat = random() % 3; repeat > 0; --repeat) {
    trace.steps.insert(trace.steps.end(), once.begin(), once.end());
  }
  if (random() % 2 == 0) {
    for (Step& step : trace.steps) step.scratch = MiB * (random() % 64);
  }
  return trace;
}

Bytes some_budget(const Trace& trace, std::mt19937& random) {
  const double part = std::uniform_real_distribution<double>(0.1, 1)(random);
  const auto bytes = static_cast<Bytes>(part * static_cast<double>(bytes_of(trace)));
  return trace.least_scratch() + std::max(trace.largest_step(), bytes);
}

Rates some_rates(std::mt19937& random) {
  Rates rates = packing;
  rates.unpack = std::uniform_real_distribution<double>(20e9, 3000e9)(random);
  return rates;
}

std::size_t count(const Plan& plan, Level level) {
  std::size_t found = 0;
  for (const auto& step : plan.levels) {
    found += static_cast<std::size_t>(std::count(step.begin(), step.end(), level));
  }
  return found;
}

PassLimits limits_with_packed(const Trace& trace, Bytes budget, Bytes in_flight) {
  PassLimits all = limits(trace, budget, in_flight);
  for (const auto& each : trace.blocks) all.packed += each.packed;
  all.unpack = packing.unpack;
  return all;
}

}  // namespace

TEST("at no step do levels take more than the budget") {
  std::mt19937 random(21);
  std::size_t kept_packed = 0;
  for (int pass = 0; pass < 400; ++pass) {
    const Trace trace = varied(random);
    const Bytes budget = some_budget(trace, random);
    const Plan plan = make_plan(trace, budget, some_rates(random));
    kept_packed += count(plan, Level::kept_packed);
    const auto held = held_by_step(trace, plan);
    for (std::size_t step = 0; step < held.size(); ++step) {
      const Bytes alone = trace.bytes_of(trace.steps[step]) + trace.steps[step].scratch;
      const Bytes with = held[step] + trace.steps[step].scratch + plan.ahead;
      // What the program allocates may be more than there is, and then nothing stays beside it.
      REQUIRE(with <= std::max(budget, alone + plan.ahead));
    }
  }
  REQUIRE(kept_packed > 1000);
}

TEST(
    "a plan over packed copies is never predicted to be slower than one without, nor than can be") {
  std::mt19937 random(22);
  std::size_t faster = 0;
  for (int pass = 0; pass < 400; ++pass) {
    const Trace trace = varied(random);
    const Bytes budget = some_budget(trace, random);
    const Rates rates = some_rates(random);
    const Plan plan = make_plan(trace, budget, rates);
    const Plan raw = make_plan(trace, budget, pcie);
    REQUIRE(plan.predicted.seconds <= raw.predicted.seconds);
    REQUIRE(plan.predicted.seconds >= (1 - 1e-9) * least_seconds(trace, budget, rates));
    REQUIRE(least_seconds(trace, budget, rates) <= (1 + 1e-9) * least_seconds(trace, budget, pcie));
    faster += plan.predicted.seconds < 0.9 * raw.predicted.seconds ? 1 : 0;
  }
  REQUIRE(faster > 50);
}

TEST("a block that is kept packed is so wherever it is not kept raw, and only with a packed copy") {
  std::mt19937 random(23);
  for (int pass = 0; pass < 200; ++pass) {
    const Trace trace = varied(random);
    const Plan plan = make_plan(trace, some_budget(trace, random), packing);
    std::vector<Level> away(trace.blocks.size(), Level::kept);
    for (std::size_t step = 0; step < trace.steps.size(); ++step) {
      for (std::size_t i = 0; i < trace.steps[step].blocks.size(); ++i) {
        const auto id = trace.steps[step].blocks[i];
        const Level level = plan.levels[step][i];
        if (level == Level::kept) continue;
        if (level != Level::streamed) {
          REQUIRE(trace.blocks[id].packed > 0 && !trace.blocks[id].written);
        }
        REQUIRE(away[id] == Level::kept || away[id] == level);
        away[id] = level;
      }
    }
  }
}

TEST("where nothing is packed, or nothing unpacks, plans are those without packed copies") {
  std::mt19937 random(24);
  for (int pass = 0; pass < 50; ++pass) {
    const Trace trace = uneven(random);
    const Bytes budget = some_budget(trace, random);
    const Plan plain = make_plan(trace, budget, pcie);
    for (const Plan& plan :
         {make_plan(trace, budget, packing), make_plan(packed(trace), budget, pcie)}) {
      REQUIRE(plan.levels == plain.levels && plan.ahead == plain.ahead);
      REQUIRE(plan.predicted.seconds == plain.predicted.seconds);
      REQUIRE(plan.predicted.raw_in == plan.predicted.moved_in && plan.predicted.unpacked == 0);
    }
  }
}

TEST(
    "what has a packed copy alone never crosses raw, and no pass is predicted faster than can be") {
  std::mt19937 random(25);
  std::size_t crossed = 0;
  for (int pass = 0; pass < 200; ++pass) {
    Trace trace = varied(random);
    for (auto& each : trace.blocks) each.alone = random() % 2 == 0;
    const Bytes budget = some_budget(trace, random);
    const Rates rates = some_rates(random);
    const double least = least_seconds(trace, budget, rates);
    const Plan given = make_plan(trace, budget, rates, 0);
    const Plan best = make_plan(trace, budget, rates);
    for (const Plan& plan : {given, best}) {
      REQUIRE(plan.predicted.seconds >= (1 - 1e-9) * least);
      for (std::size_t step = 0; step < trace.steps.size(); ++step) {
        for (std::size_t i = 0; i < trace.steps[step].blocks.size(); ++i) {
          const TracedBlock& each = trace.blocks[trace.steps[step].blocks[i]];
          if (!each.alone || each.packed == 0 || each.written) continue;
          REQUIRE(plan.levels[step][i] != Level::streamed);
          crossed += plan.levels[step][i] == Level::streamed_packed ? 1 : 0;
        }
      }
    }
    for (auto& each : trace.blocks) each.alone = false;
    REQUIRE(least >= (1 - 1e-9) * least_seconds(trace, budget, rates));
  }
  REQUIRE(crossed > 1000);
}

TEST("what has a packed copy alone is unpacked though the work hides the link") {
  Trace trace = packed(cycle(384, 1));
  for (auto& each : trace.blocks) each.alone = true;
  const Bytes budget = 192 * block;
  const Plan plan = make_plan(trace, budget, packing);
  const double away = static_cast<double>(bytes_of(trace) - budget);
  const double least = least_seconds(trace, budget, packing);
  REQUIRE(std::abs(least - 1 - away / packing.unpack) < 1e-9);
  REQUIRE(plan.predicted.unpacked >= bytes_of(trace) - budget);
  REQUIRE(plan.predicted.seconds <= 1.02 * least);
}

TEST("a plain cycle that fits packed keeps raw what still fits beside it, and nothing streams") {
  const Trace trace = packed(cycle(384, 5e-3));
  for (const double over : {1.1, 1.25, 1.4}) {
    const auto budget = static_cast<Bytes>(384 / over) * block;
    const Plan plan = make_plan(trace, budget, packing);
    REQUIRE(plan.predicted.moved_in == 0 && plan.ahead == 3 * block);
    const std::size_t packed_blocks = count(plan, Level::kept_packed);
    REQUIRE(packed_blocks + count(plan, Level::kept) == 384);
    // One block more kept raw would not fit.
    REQUIRE(most_held(trace, plan) + plan.ahead + 2 * (block - packed_block) > budget);
    REQUIRE(plan.predicted.unpacked == packed_blocks * block);
    const double limit = limits_with_packed(trace, budget, 4 * block).with_packed();
    REQUIRE(std::abs(plan.predicted.seconds / limit - 1) < 0.01);
  }
}

TEST(
    "a plain cycle that does not fit packed keeps packed all it can, and streams the rest packed") {
  for (const double over : {1.6, 2.0, 4.0}) {
    const auto budget = static_cast<Bytes>(384 / over) * block;
    for (const double compute : {4e-3, 10e-3, 22e-3}) {
      const Trace trace = packed(cycle(384, compute));
      const Plan plan = make_plan(trace, budget, packing);
      REQUIRE(count(plan, Level::kept) + count(plan, Level::streamed) == 0);
      REQUIRE(most_held(trace, plan) + plan.ahead + 2 * packed_block > budget);
      REQUIRE(plan.predicted.raw_in == count(plan, Level::streamed_packed) * block);
      REQUIRE(plan.predicted.moved_in == count(plan, Level::streamed_packed) * packed_block);
      const double limit = limits_with_packed(trace, budget, 4 * block).with_packed();
      REQUIRE(plan.predicted.seconds <= 1.02 * limit);
    }
  }
}

TEST("what streams packed is spread evenly") {
  const Trace trace = packed(cycle(384, 5e-3));
  const Plan plan = make_plan(trace, 192 * block, packing);
  const auto streamed = static_cast<double>(count(plan, Level::streamed_packed));
  double before = 0;
  for (std::size_t step = 0; step < 384; ++step) {
    before += plan.levels[step][0] == Level::streamed_packed ? 1 : 0;
    const double even = streamed * static_cast<double>(step + 1) / 384;
    REQUIRE(std::abs(before - even) <= 3);
  }
}

TEST("where the work hides the link, or unpacking takes as long as the link, plans stay raw") {
  const Bytes budget = 192 * block;
  const double crossing = limits(cycle(384, 0), budget, 4 * block).plan();
  const Trace hiding = packed(cycle(384, 1.02 * crossing));
  const Plan hidden = make_plan(hiding, budget, packing);
  REQUIRE(hidden.predicted.unpacked == 0 && hidden.predicted.seconds <= 1.001 * hiding.seconds());
  Rates slow = packing;
  slow.unpack = slow.up;
  const Trace trace = packed(cycle(384, 0.5 * crossing));
  REQUIRE(make_plan(trace, budget, slow).predicted.unpacked == 0);
}

TEST("of blocks that are used many times and once a pass, the latter are kept packed") {
  Trace trace;
  for (std::uint32_t i = 0; i < 140; ++i) trace.blocks.push_back({block, false});
  for (std::uint32_t i = 0; i < 60; ++i) trace.steps.push_back({{i}, 1e-5});  // an encoder
  for (int repeat = 0; repeat < 30; ++repeat) {
    for (std::uint32_t i = 60; i < 80; ++i) trace.steps.push_back({{i}, 1e-5});
  }
  for (std::uint32_t i = 80; i < 140; ++i) trace.steps.push_back({{i}, 1e-5});  // a decoder
  trace = packed(trace);
  const Plan plan = make_plan(trace, 80 * block, packing);
  const Plan raw = make_plan(trace, 80 * block, pcie);
  REQUIRE(plan.predicted.seconds < 0.8 * raw.predicted.seconds);
  REQUIRE(count(plan, Level::kept_packed) > 40);
  for (std::size_t step = 80; step < 640; ++step) REQUIRE(plan.levels[step][0] == Level::kept);
  for (std::size_t step = 60; step < 660; ++step) {
    REQUIRE(plan.levels[step][0] != Level::kept_packed);
  }
}

TEST("the prediction counts unpacking as the card's work, beside which the link goes on") {
  const Trace trace = packed(cycle(20, 0.1));
  Plan plan{
      .levels = std::vector(20, std::vector{Level::kept_packed}), .ahead = 0, .predicted = {}};
  const Bytes roomy = 100 * block;
  const double unpacking = 20.0 * block / packing.unpack;
  REQUIRE(std::abs(predict(trace, plan, roomy, packing).seconds - 0.1 - unpacking) < 1e-9);
  for (std::size_t i = 0; i < 20; i += 2) plan.levels[i][0] = Level::streamed_packed;
  const Prediction half = predict(trace, plan, roomy, packing);
  REQUIRE(std::abs(half.seconds - 0.1 - unpacking) < 1e-9);
  REQUIRE(half.moved_in == 10 * packed_block && half.raw_in == 10 * block);
  REQUIRE(half.unpacked == 20 * block);
  const Trace idle = packed(cycle(20, 0));
  const double crossing = 10.0 * packed_block / packing.up;
  const double seconds = predict(idle, plan, roomy, packing).seconds;
  REQUIRE(seconds >= crossing * (1 - 1e-9) && seconds < crossing + 4 * block / packing.unpack);
}
