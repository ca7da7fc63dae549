// How long planning takes: 100,000 blocks are to take a second at most.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <utility>

#include "plan/plan.hpp"

using namespace vramx;

namespace {

constexpr Bytes block = 32 * MiB;
constexpr LinkRates link{.to_card = 50e9, .to_host = 50e9};
constexpr double limit = 1;  // seconds
constexpr std::uint32_t most_blocks = 100'000;

/// Blocks of one size used one after the other.
Trace cycle(std::uint32_t blocks) {
  Trace trace;
  for (std::uint32_t i = 0; i < blocks; ++i) {
    trace.blocks.push_back({block, false});
    trace.steps.push_back({{i}, block / link.to_card / 2});
  }
  return trace;
}

/// Modules of one to four blocks of any size, some of them written, that take any time.
Trace modules(std::uint32_t blocks) {
  std::mt19937 random(0);
  std::uniform_int_distribution<Bytes> units(1, 16);
  std::uniform_int_distribution<std::uint32_t> together(1, 4);
  std::uniform_real_distribution<double> seconds(0, block / link.to_card);
  Trace trace;
  while (trace.blocks.size() < blocks) {
    Step step{.blocks = {}, .seconds = seconds(random)};
    for (std::uint32_t i = together(random); i > 0 && trace.blocks.size() < blocks; --i) {
      step.blocks.push_back(static_cast<std::uint32_t>(trace.blocks.size()));
      trace.blocks.push_back({units(random) * 2 * MiB, random() % 16 == 0});
    }
    trace.steps.push_back(std::move(step));
  }
  return trace;
}

/// The middle half of a cycle is used four times over, as by a sampler between two encoders.
Trace loop(std::uint32_t blocks) {
  Trace trace = cycle(blocks);
  const auto steps = trace.steps;
  const auto from = static_cast<std::ptrdiff_t>(blocks / 4);
  const auto to = static_cast<std::ptrdiff_t>(blocks - blocks / 4);
  for (int again = 0; again < 3; ++again) {
    trace.steps.insert(trace.steps.begin() + to, steps.begin() + from, steps.begin() + to);
  }
  return trace;
}

/// A cycle whose last block works a thousand times as long as all the others.
Trace pause(std::uint32_t blocks) {
  Trace trace = cycle(blocks);
  trace.steps.back().seconds = 1000 * trace.seconds();
  return trace;
}

double seconds_to_plan(const Trace& trace) {
  Bytes used = 0;
  for (const auto& each : trace.blocks) used += each.size;
  const auto began = std::chrono::steady_clock::now();
  const Plan plan = make_plan(trace, used / 2, link);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
  if (plan.predicted.moved_in == 0) std::puts("half of it fits, but nothing moves: a wrong plan");
  return taken.count();
}

}  // namespace

int main() {
  const std::pair<const char*, Trace (*)(std::uint32_t)> kinds[] = {
      {"cycle", cycle}, {"modules", modules}, {"loop", loop}, {"pause", pause}};
  std::puts("blocks  uses    trace    seconds");
  for (std::uint32_t blocks = 1'000; blocks <= most_blocks; blocks *= 10) {
    for (const auto& [name, make] : kinds) {
      const Trace trace = make(blocks);
      const double seconds = seconds_to_plan(trace);
      const char* verdict = seconds <= limit ? "holds" : "MISSES";
      std::printf("%-7u %-7zu %-8s %.3f, %s %.0f s\n", blocks, trace.steps.size(), name, seconds,
                  verdict, limit);
    }
  }
}
