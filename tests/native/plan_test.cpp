// Plans: what stays and what leaves, evenly spread, and the times they predict.
#include "plan/plan.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.hpp"
#include "check.hpp"
#include "plan/bound.hpp"
#include "plan/spans.hpp"
#include "plans.hpp"

using namespace vramx;
using namespace plans;

namespace {

/// As least_seconds, by trying each stretch.
double tried_least_seconds(const Trace& trace, Bytes budget) {
  double least = trace.seconds();
  const std::size_t steps = trace.steps.size();
  std::vector<std::size_t> first(trace.blocks.size(), steps);
  for (std::size_t step = steps; step-- > 0;) {
    for (const auto id : trace.steps[step].blocks) first[id] = step;
  }
  for (std::size_t begin = 0; begin < steps; ++begin) {
    Bytes bytes = 0;
    double work = 0;
    for (std::size_t i = 0; i < steps; ++i) {
      const std::size_t step = (begin + i) % steps;
      for (const auto id : trace.steps[step].blocks) {
        if (first[id] == step) bytes += trace.blocks[id].size;
      }
      const double crossing = limits(trace, budget, 0).crossing(bytes - std::min(bytes, budget));
      least = std::max(least, trace.seconds() - work + std::max(work, crossing));
      work += trace.steps[step].seconds;
    }
  }
  return least;
}

}  // namespace

TEST("what fits stays, and nothing moves") {
  const Trace trace = cycle(20, 0.1);
  const Plan plan = make_plan(trace, 20 * block, pcie);
  REQUIRE(plan.predicted.moved_in == 0);
  REQUIRE(std::abs(plan.predicted.seconds - trace.seconds()) < 1e-9);
}

TEST("a plain cycle moves just what does not fit beside the blocks in flight") {
  for (const std::uint32_t blocks : {16U, 48U, 97U, 384U}) {
    for (const double part : {0.25, 0.5, 0.667, 0.8}) {
      const auto budget = static_cast<Bytes>(blocks * part) * block;
      if (budget < 5 * block) continue;
      const Trace trace = cycle(blocks, 0.05);
      const Plan plan = make_plan(trace, budget, pcie, 3 * block);
      REQUIRE(plan.predicted.moved_in == blocks * block - budget + 4 * block);
      REQUIRE(most_held(trace, plan) + plan.ahead <= budget);
    }
  }
}

TEST("a plain cycle is predicted to take as long as an even plan can, whatever bounds it") {
  for (const std::uint32_t blocks : {48U, 97U, 384U}) {
    for (const double part : {0.25, 0.5, 0.667, 0.8}) {
      const auto budget = static_cast<Bytes>(blocks * part) * block;
      const double crossing = limits({cycle(blocks, 0)}, budget, 4 * block).plan();
      for (const double compute : {0.0, 0.3, 0.9, 1.0, 1.1, 2.0}) {
        const Trace trace = cycle(blocks, compute * crossing);
        const Plan plan = make_plan(trace, budget, pcie);
        const double limit = limits(trace, budget, 4 * block).plan();
        REQUIRE(plan.predicted.seconds <= 1.01 * limit);
        REQUIRE(plan.predicted.seconds > (1 - 1e-9) * limits(trace, budget, 0).fluid());
      }
    }
  }
}

TEST("sizes and times at random stay within a twentieth of the limit") {
  std::mt19937 random(7);
  double worst = 0;
  for (int pass = 0; pass < 300; ++pass) {
    Trace trace = at_random(random, 40, 400);
    const Bytes used = bytes_of(trace);
    const auto budget = static_cast<Bytes>(
        static_cast<double>(used) * std::uniform_real_distribution<double>(0.25, 0.9)(random));
    if (budget < 8 * block) continue;
    const double crossing = limits(trace, budget, 4 * block).crossing(used - budget);
    const double scale =
        crossing * std::uniform_real_distribution<double>(0, 2)(random) / trace.seconds();
    for (Step& step : trace.steps) step.seconds *= scale;
    const Plan plan = make_plan(trace, budget, pcie);
    REQUIRE(most_held(trace, plan) + plan.ahead <= budget);
    const double over = plan.predicted.seconds / limits(trace, budget, 4 * block).plan();
    worst = std::max(worst, over);
  }
  REQUIRE(worst <= 1.05);
}

TEST("after work with few weights no more leaves than the link can fetch beside what follows") {
  // As in a U-Net, whose ends work long with little.
  for (const double ends : {0.1, 0.2, 0.3}) {
    Trace trace = cycle(100, 0, block);
    const Bytes budget = 65 * block;
    const double crossing = limits(trace, budget, 4 * block).crossing(35 * block);
    for (Step& step : trace.steps) step.seconds = 1.8 * crossing * (1 - ends) / 98;
    trace.steps.front().seconds = trace.steps.back().seconds = 1.8 * crossing * ends / 2;
    const Plan plan = make_plan(trace, budget, pcie);
    REQUIRE(plan.predicted.seconds <= 1.02 * limits(trace, budget, 4 * block).plan());
    // With room for three blocks ahead the pass with the longest ends takes more than 1.02 of that.
    const Bytes ahead = (ends < 0.3 ? 4 : 7) * block;
    REQUIRE(plan.predicted.moved_in <= 100 * block - budget + ahead);
  }
}

TEST("no plan is predicted to be faster than the bound, which is that of the worst stretch") {
  std::mt19937 random(11);
  for (int pass = 0; pass < 300; ++pass) {
    const Trace trace = uneven(random);
    const double part = std::uniform_real_distribution<double>(0.1, 1)(random);
    const auto budget = std::max(trace.largest_step(),
                                 static_cast<Bytes>(part * static_cast<double>(bytes_of(trace))));
    const double least = least_seconds(trace, budget, pcie);
    REQUIRE(std::abs(least - tried_least_seconds(trace, budget)) < 1e-9);
    REQUIRE(least >= (1 - 1e-9) * limits(trace, budget, 0).fluid());
    REQUIRE(make_plan(trace, budget, pcie).predicted.seconds >= (1 - 1e-9) * least);
  }
}

TEST("where most work has few bytes beside it the bound is above the fluid one, and is reached") {
  Trace trace = cycle(100, 0);
  const Bytes budget = 40 * block;
  const double crossing = limits(trace, budget, 0).crossing(60 * block);
  for (Step& step : trace.steps) step.seconds = 0.5 * crossing / 99;
  trace.steps.back().seconds = 0.5 * crossing;
  REQUIRE(std::abs(limits(trace, budget, 0).fluid() - crossing) < 1e-9);
  const double least = least_seconds(trace, budget, pcie);
  REQUIRE(std::abs(least - 1.5 * crossing) < 1e-9);
  REQUIRE(make_plan(trace, budget, pcie).predicted.seconds <= 1.03 * least);
}

TEST("a pass that works all at once, beside hardly any weights, moves no more than another") {
  Trace trace = cycle(20'000, 0, block);
  const Bytes budget = 10'000 * block;
  for (Step& step : trace.steps) step.seconds = 1e-6;
  trace.steps.back().seconds = 100;
  const Plan plan = make_plan(trace, budget, pcie);
  const double crossing = limits(trace, budget, 0).crossing(10'000 * block);
  REQUIRE(plan.predicted.seconds <= 1.01 * (100 + crossing));
  REQUIRE(plan.predicted.moved_in <= 10'000 * block + 4 * block);
}

TEST("what is used thirty times stays before what is used once") {
  Trace trace;
  for (std::uint32_t i = 0; i < 60; ++i) trace.blocks.push_back({block, false});
  for (std::uint32_t i = 0; i < 20; ++i) trace.steps.push_back({{i}, 1e-3});  // an encoder
  for (int repeat = 0; repeat < 30; ++repeat) {
    for (std::uint32_t i = 20; i < 40; ++i) trace.steps.push_back({{i}, 1e-3});
  }
  for (std::uint32_t i = 40; i < 60; ++i) trace.steps.push_back({{i}, 1e-3});  // a decoder
  const Plan plan = make_plan(trace, 26 * block, pcie);
  REQUIRE(plan.predicted.moved_in <= 2 * 60 * block);
  for (std::size_t step = 40; step < 600; ++step) REQUIRE(plan.levels[step][0] == Level::kept);
  REQUIRE(most_held(trace, plan) + plan.ahead <= 26 * block);
}

TEST("what would be written back stays before what is dropped") {
  Trace trace = cycle(40, 0.01);
  for (std::uint32_t i = 0; i < 40; i += 2) trace.blocks[i].written = true;
  const Plan plan = make_plan(trace, 26 * block, pcie);
  REQUIRE(plan.predicted.moved_out == 0 && plan.predicted.moved_in > 0);
}

TEST("what the program allocates all the while is as if the budget were less") {
  for (const Bytes scratch : {block, 7 * block, 20 * block}) {
    Trace trace = cycle(48, 0.05);
    const Plan plain = make_plan(trace, 40 * block - scratch, pcie);
    for (Step& step : trace.steps) step.scratch = scratch;
    const Plan beside = make_plan(trace, 40 * block, pcie);
    REQUIRE(beside.levels == plain.levels && beside.ahead == plain.ahead);
    REQUIRE(beside.predicted.moved_in == plain.predicted.moved_in);
    REQUIRE(beside.predicted.seconds == plain.predicted.seconds);
  }
}

TEST("what the program allocates for a while takes room then only") {
  const std::uint32_t blocks = 20;
  const std::uint32_t passes = 8;
  const Bytes budget = 12 * block;
  // Passes of a loop, and a step between them that takes more than there is.
  Trace trace = cycle(blocks, 0);
  trace.steps.clear();
  for (std::uint32_t i = 0; i < passes * blocks; ++i) trace.steps.push_back({{i % blocks}, 1e-4});
  trace.blocks.push_back({block, false});
  for (const Bytes scratch : {6 * block, 11 * block, 30 * block}) {
    for (const bool beside : {false, true}) {
      Trace whole = trace;
      whole.steps.push_back({{blocks}, 1e-3, scratch});
      if (beside) {
        for (Step& step : whole.steps) step.scratch += 3 * block;
      }
      const Bytes least = beside ? 3 * block : 0;
      const Plan plan = make_plan(whole, budget + least, pcie, 3 * block);
      const Bytes a_pass = make_plan(cycle(blocks, 0), budget, pcie, 3 * block).predicted.moved_in;
      REQUIRE(most_held(whole, plan) + plan.ahead <= budget);
      REQUIRE(plan.predicted.moved_in <= passes * a_pass + budget + block);
      REQUIRE(plan.predicted.moved_in >= passes * (a_pass - 4 * block));
      Bytes across = 0;  // what stays while the program has so much
      for (std::size_t id = 0; id < blocks; ++id) {
        if (plan.levels[(passes - 1) * blocks + id].front() == Level::kept) across += block;
      }
      REQUIRE(across <= budget - std::min(budget, scratch));
    }
  }
}

TEST("many spans at once load the steps as one after another do, and as counting by step does") {
  std::mt19937 random(3);
  for (const std::size_t steps : {2, 7, 64, 200}) {
    std::vector<std::int64_t> counted(steps);
    for (auto& each : counted) each = 1'000'000 + static_cast<std::int64_t>(random() % 100);
    Load at_once(counted);
    Load one_by_one(counted);
    for (const std::size_t many : {steps / 20, steps, 3 * steps}) {
      std::vector<Span> spans;
      std::vector<std::int64_t> bytes;
      for (std::size_t i = 0; i < many; ++i) {
        const auto from = static_cast<std::uint32_t>(random() % steps);
        const auto to = static_cast<std::uint32_t>(from + 1 + random() % steps);
        spans.push_back({0, from, 0, to});
        bytes.push_back(static_cast<std::int64_t>(random() % 100) - 50);
        one_by_one.add(spans.back(), bytes.back());
        for (std::uint32_t step = from + 1; step < to; ++step) counted[step % steps] += bytes[i];
      }
      at_once.add(spans, bytes);
      REQUIRE(at_once.most() == *std::max_element(counted.begin(), counted.end()));
      for (std::uint32_t step = 0; step < steps; ++step) {
        const Span around{0, step, 0, step + 2};
        REQUIRE(at_once.most(around) == counted[(step + 1) % steps]);
        REQUIRE(at_once.most(around) == one_by_one.most(around));
      }
    }
  }
}

TEST("a budget of one step's blocks is enough") {
  const Trace trace = cycle(10, 0.01);
  const Plan plan = make_plan(trace, block, pcie);
  REQUIRE(plan.predicted.moved_in == 10 * block && plan.ahead == 0);
}

TEST("what cannot be planned is refused with its figures") {
  REQUIRE_THROWS(BadConfig, make_plan({}, block, pcie));
  Trace trace = cycle(4, 0.1);
  REQUIRE_THROWS(OutOfMemory, make_plan(trace, block - 1, pcie));
  trace.steps[2].blocks = {9};
  REQUIRE_THROWS(BadConfig, make_plan(trace, 4 * block, pcie));
}

TEST("a hundred thousand blocks are planned") {
  Trace trace = cycle(100000, 10, 2 * MiB);
  std::mt19937 random(1);
  for (auto& step : trace.steps)
    step.seconds *= std::uniform_real_distribution<double>(0, 2)(random);
  const Plan plan = make_plan(trace, 50000 * Bytes{2} * MiB, pcie);
  REQUIRE(most_held(trace, plan) + plan.ahead <= 100000 * MiB);
}
