// Traces to plan, and what plans of them hold.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "plan/limits.hpp"
#include "plan/plan.hpp"

namespace plans {

using namespace vramx;

inline constexpr Bytes block = 32 * MiB;
inline constexpr Rates pcie{.up = 50e9, .down = 50e9};

/// A cycle over blocks of one size, one a step.
inline Trace cycle(std::uint32_t blocks, double seconds, Bytes size = block) {
  Trace trace;
  for (std::uint32_t i = 0; i < blocks; ++i) {
    trace.blocks.push_back({size, false});
    trace.steps.push_back({{i}, seconds / blocks});
  }
  return trace;
}

inline Bytes bytes_of(const Trace& trace) {
  Bytes total = 0;
  for (const auto& each : trace.blocks) total += each.size;
  return total;
}

inline PassLimits limits(const Trace& trace, Bytes budget, Bytes in_flight) {
  return {.used = bytes_of(trace),
          .budget = budget,
          .link = pcie.up,
          .compute = trace.seconds(),
          .in_flight = in_flight};
}

/// A cycle over so many blocks of sizes at random, one a step of up to a second.
inline Trace at_random(std::mt19937& random, std::uint32_t fewest, std::uint32_t most) {
  Trace trace;
  const auto blocks = std::uniform_int_distribution<std::uint32_t>(fewest, most)(random);
  std::uniform_int_distribution<Bytes> units(1, 16);
  std::uniform_real_distribution<double> times(0, 1);
  for (std::uint32_t i = 0; i < blocks; ++i) {
    trace.blocks.push_back({2 * MiB * units(random), false});
    trace.steps.push_back({{i}, times(random)});
  }
  return trace;
}

/// Such a cycle of milliseconds, with steps that use a second block, and some that work long.
inline Trace uneven(std::mt19937& random) {
  Trace trace = at_random(random, 5, 60);
  std::uniform_real_distribution<double> part(0, 1);
  for (Step& step : trace.steps) {
    step.seconds *= part(random) < 0.1 ? 20e-3 : 1e-3;
    const auto other = static_cast<std::uint32_t>(random() % trace.blocks.size());
    if (other != step.blocks.front() && part(random) < 0.2) step.blocks.push_back(other);
  }
  return trace;
}

/// By step: the bytes that a plan has on the card, which are the step's, those kept raw until their
/// next use, and packed copies that stay.
inline std::vector<Bytes> held_by_step(const Trace& trace, const Plan& plan) {
  const std::size_t steps = trace.steps.size();
  std::vector<std::int64_t> change(3 * steps + 1);
  std::vector<std::vector<std::pair<std::size_t, Level>>> uses(trace.blocks.size());
  for (std::size_t step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < trace.steps[step].blocks.size(); ++i) {
      uses[trace.steps[step].blocks[i]].emplace_back(step, plan.levels[step][i]);
    }
  }
  std::int64_t present = 0;
  for (std::size_t id = 0; id < uses.size(); ++id) {
    const auto size = static_cast<std::int64_t>(trace.blocks[id].size);
    bool packed = false;
    for (std::size_t i = 0; i < uses[id].size(); ++i) {
      const auto [from, level] = uses[id][i];
      const std::size_t to =
          i + 1 < uses[id].size() ? uses[id][i + 1].first : uses[id][0].first + steps;
      packed = packed || level == Level::kept_packed;
      for (std::size_t pass = 0; pass < 2; ++pass) {
        change[from + pass * steps] += size;
        change[(level == Level::kept ? to : from + 1) + pass * steps] -= size;
      }
    }
    if (packed) present += static_cast<std::int64_t>(trace.blocks[id].packed);
  }
  std::vector<Bytes> held;
  for (std::size_t step = 0; step < 2 * steps; ++step) {
    present += change[step];
    if (step >= steps) held.push_back(static_cast<Bytes>(present));
  }
  return held;
}

inline Bytes most_held(const Trace& trace, const Plan& plan) {
  return std::ranges::max(held_by_step(trace, plan));
}

}  // namespace plans
