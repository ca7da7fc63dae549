#include "plan/spans.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace vramx {

namespace {

/// One of so many steps must begin a span for going over all of them to be worth it.
constexpr std::size_t worth_all_steps = 16;

}  // namespace

std::vector<Span> spans_of(const Trace& trace) {
  const auto steps = static_cast<std::uint32_t>(trace.steps.size());
  constexpr auto never = std::numeric_limits<std::uint32_t>::max();
  std::vector<std::uint32_t> first(trace.blocks.size(), never);
  for (std::uint32_t step = steps; step-- > 0;) {
    for (const auto block : trace.steps[step].blocks) first[block] = step;
  }
  // Backwards, so that a block's next use is known: at first the one in the next pass.
  std::vector<std::uint32_t> next(trace.blocks.size());
  for (std::size_t block = 0; block < first.size(); ++block) {
    next[block] = first[block] == never ? never : first[block] + steps;
  }
  std::vector<Span> spans;
  for (std::uint32_t step = steps; step-- > 0;) {
    const auto& blocks = trace.steps[step].blocks;
    for (auto place = static_cast<std::uint32_t>(blocks.size()); place-- > 0;) {
      spans.push_back({blocks[place], step, place, next[blocks[place]]});
      next[blocks[place]] = step;
    }
  }
  std::reverse(spans.begin(), spans.end());
  return spans;
}

Load::Load(const std::vector<std::int64_t>& bytes)
    : steps_(bytes.size()), most_(4 * bytes.size()), added_(4 * bytes.size()) {
  add(1, 0, steps_ - 1, bytes);
}

template <class Visit>
void Load::inside(const Span& span, Visit&& visit) const {
  const std::size_t from = span.from + 1;
  const std::size_t to = span.to;  // one past the last
  if (from >= to) return;
  if (to <= steps_) {
    visit(from, to - 1);
    return;
  }
  if (from < steps_) visit(from, steps_ - 1);
  if (to > steps_) visit(0, to - steps_ - 1);
}

void Load::add(const Span& span, std::int64_t bytes) {
  inside(span, [&](std::size_t from, std::size_t to) { add(1, 0, steps_ - 1, from, to, bytes); });
}

void Load::add(const std::vector<Span>& spans, const std::vector<std::int64_t>& bytes) {
  if (spans.size() < steps_ / worth_all_steps) {
    for (std::size_t i = 0; i < spans.size(); ++i) add(spans[i], bytes[i]);
    return;
  }
  std::vector<std::int64_t> by_step(steps_ + 1);  // first what changes there, then what is there
  for (std::size_t i = 0; i < spans.size(); ++i) {
    inside(spans[i], [&](std::size_t from, std::size_t to) {
      by_step[from] += bytes[i];
      by_step[to + 1] -= bytes[i];
    });
  }
  std::partial_sum(by_step.begin(), by_step.end(), by_step.begin());
  add(1, 0, steps_ - 1, by_step);
}

std::int64_t Load::most(const Span& span) const {
  std::int64_t most = 0;
  inside(span, [&](std::size_t from, std::size_t to) {
    most = std::max(most, this->most(1, 0, steps_ - 1, from, to));
  });
  return most;
}

void Load::add(std::size_t node, std::size_t first, std::size_t last, std::size_t from,
               std::size_t to, std::int64_t bytes) {
  if (from <= first && last <= to) {
    most_[node] += bytes;
    added_[node] += bytes;
    return;
  }
  const std::size_t middle = (first + last) / 2;
  if (from <= middle) add(2 * node, first, middle, from, to, bytes);
  if (to > middle) add(2 * node + 1, middle + 1, last, from, to, bytes);
  most_[node] = added_[node] + std::max(most_[2 * node], most_[2 * node + 1]);
}

void Load::add(std::size_t node, std::size_t first, std::size_t last,
               const std::vector<std::int64_t>& bytes_by_step) {
  if (first == last) {
    most_[node] += bytes_by_step[first];
    return;
  }
  const std::size_t middle = (first + last) / 2;
  add(2 * node, first, middle, bytes_by_step);
  add(2 * node + 1, middle + 1, last, bytes_by_step);
  most_[node] = added_[node] + std::max(most_[2 * node], most_[2 * node + 1]);
}

std::int64_t Load::most(std::size_t node, std::size_t first, std::size_t last, std::size_t from,
                        std::size_t to) const {
  if (from <= first && last <= to) return most_[node];
  const std::size_t middle = (first + last) / 2;
  std::int64_t most = std::numeric_limits<std::int64_t>::min();
  if (from <= middle) most = std::max(most, this->most(2 * node, first, middle, from, to));
  if (to > middle) most = std::max(most, this->most(2 * node + 1, middle + 1, last, from, to));
  return most + added_[node];
}

}  // namespace vramx
