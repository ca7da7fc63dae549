#include "forms/tables.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "base/error.hpp"

namespace vramx {

namespace {

/// Of runs of words in a block, and of parts.
constexpr Bytes alignment = 16;
/// Tensors lie apart by less than this only because they are aligned.
constexpr Bytes most_padding = 4 * KiB;
constexpr Bytes least_run = 64 * KiB;
/// Second codes are read eight bytes at a time from where they begin.
constexpr Bytes past_second = 16;

Words words_of(Type type, std::uint32_t low) {
  const auto zero = [low](Words words) {
    return (low & ((1U << shape_of(words).dropped) - 1)) == 0;
  };
  if (type == Type::fp16 && zero(Words::fp16_7)) return Words::fp16_7;
  if (type == Type::fp32 && zero(Words::fp32_7)) return Words::fp32_7;
  if (type == Type::fp32 && zero(Words::fp32_10)) return Words::fp32_10;
  return all_bits(type);
}

/// Where parts lie whose sizes follow from the number of words, which is below 2^32.
Run lay_out(Words words, Bytes at, Bytes size, Bytes packed_at) {
  const Shape shape = shape_of(words);
  const Bytes tiles = (size / shape.bytes + tile_words - 1) / tile_words;
  Run run{};
  run.words = words;
  run.tiles = static_cast<std::uint32_t>(tiles);
  run.at = at;
  run.size = size;
  run.first = packed_at;
  run.low = run.first + tiles * tile_words;
  run.codes = run.low + tiles * (tile_words / 8 * shape.low_bits);
  run.places = run.codes + tiles * (tile_words / 4);
  run.bases = run.places + round_up((tiles + 1) * sizeof(Place2), alignment);
  run.second = run.bases + round_up((tiles / group_tiles + 1) * sizeof(Base2), alignment);
  return run;
}

[[noreturn]] void corrupted(std::size_t index, const std::string& what) {
  throw Corrupted("the description of packed weights is damaged: run " + std::to_string(index) +
                  " " + what + "; pack them again from where they came from");
}

void check_packed(const Run& run, std::size_t index) {
  if (run.at % alignment != 0 || run.size % alignment != 0) {
    corrupted(index, "is no whole pieces of 16 bytes: " + std::to_string(run.size) + " bytes at " +
                         std::to_string(run.at));
  }
  const Run expected = lay_out(run.words, run.at, run.size, run.first);
  if (run.tiles != expected.tiles || run.low != expected.low || run.codes != expected.codes ||
      run.places != expected.places || run.bases != expected.bases ||
      run.second != expected.second || run.exceptions < run.second ||
      run.exceptions - run.second < past_second || run.exceptions % alignment != 0 ||
      run.end < run.exceptions) {
    corrupted(index,
              "has parts that are not where its " + std::to_string(run.size) + " bytes have them");
  }
}

}  // namespace

std::vector<TypedRange> runs_of(Bytes block_size, const std::vector<TypedRange>& ranges) {
  std::vector<TypedRange> joined;
  Bytes end = 0;
  for (const TypedRange& range : ranges) {
    if (range.offset < end || range.offset > block_size || range.size > block_size - range.offset) {
      throw BadConfig("typed bytes " + std::to_string(range.offset) + " and " +
                      std::to_string(range.size) + " more are not after the last ones, which end " +
                      "at " + std::to_string(end) + ", and in the block of " +
                      std::to_string(block_size) + "; pass ranges of it in order");
    }
    end = range.end();
    if (!range.type || range.offset % shape_of(all_bits(*range.type)).bytes != 0) continue;
    if (!joined.empty() && joined.back().type == range.type &&
        range.offset - joined.back().end() < most_padding) {
      joined.back().size = end - joined.back().offset;
    } else {
      joined.push_back(range);
    }
  }
  std::vector<TypedRange> runs;
  Bytes at = 0;
  for (const TypedRange& range : joined) {
    const Bytes from = round_up(range.offset, alignment);
    const Bytes to = range.end() / alignment * alignment;
    if (to < from + least_run) continue;
    if (from > at) runs.push_back({.offset = at, .size = from - at, .type = {}});
    runs.push_back({.offset = from, .size = to - from, .type = range.type});
    at = to;
  }
  if (block_size > at) runs.push_back({.offset = at, .size = block_size - at, .type = {}});
  return runs;
}

Run begin_run(Type type, const Survey& survey, Bytes at, Bytes size, Bytes packed_at) {
  const Words words = words_of(type, survey.low);
  const Shape shape = shape_of(words);
  if (size / shape.bytes > std::numeric_limits<std::uint32_t>::max()) {
    throw BadConfig("a run of " + text(size) + " is not packed: it has 2^32 words or more; use " +
                    "smaller blocks");
  }
  Run run = lay_out(words, at, size, packed_at);
  // Those that do not occur come last: no two codes mean the same.
  std::array<std::uint32_t, 256> order;
  const auto last = order.begin() + (1U << shape.exponent_bits);
  std::iota(order.begin(), last, 0U);
  std::stable_sort(order.begin(), last, [&](std::uint32_t left, std::uint32_t right) {
    return survey.exponents[left] > survey.exponents[right];
  });
  for (std::uint32_t i = 0; i < frequent_exponents; ++i) run.frequent |= order[i] << (8 * i);
  for (std::uint32_t i = 0; i < second_exponents; ++i) {
    run.next[i / 4] |= order[frequent_exponents + i] << (8 * (i % 4));
  }
  return run;
}

void end_run(Run& run, Escapes escapes) {
  run.exceptions = run.second + round_up((3 * escapes.second + 7) / 8 + past_second, alignment);
  run.end = run.exceptions + round_up(4 * escapes.exceptions, alignment);
}

Run raw_run(Bytes at, Bytes size, Bytes packed_at) {
  Run run{};
  run.words = Words::raw;
  run.at = at;
  run.size = size;
  run.first = packed_at;
  run.low = run.codes = run.places = run.bases = run.second = run.exceptions = run.end =
      packed_at + round_up(size, alignment);
  return run;
}

void add_run(std::vector<Run>& runs, const Run& run) {
  if (run.words == Words::raw && !runs.empty() && runs.back().words == Words::raw) {
    runs.back() = raw_run(runs.back().at, runs.back().size + run.size, runs.back().first);
  } else {
    runs.push_back(run);
  }
}

Escapes room_of(const Run& run) {
  return {.second = (run.exceptions - run.second - past_second) * 8 / 3,
          .exceptions = (run.end - run.exceptions) / 4};
}

// No part is smaller than a quarter of its words, so sums do not overflow unless the end is wrong.
void check(const PackedBlock& packed, Bytes raw_size) {
  Bytes at = 0;
  Bytes packed_at = 0;
  for (std::size_t i = 0; i < packed.runs.size(); ++i) {
    const Run& run = packed.runs[i];
    if (run.at != at) {
      corrupted(i,
                "is of bytes at " + std::to_string(run.at) + " and not at " + std::to_string(at));
    }
    if (run.words > Words::fp32_7) corrupted(i, "has words of no known kind");
    if (run.first != packed_at || run.end < run.first || run.end % alignment != 0) {
      corrupted(i, "lies from " + std::to_string(run.first) + " to " + std::to_string(run.end) +
                       " and not from " + std::to_string(packed_at));
    }
    if (run.words != Words::raw) {
      check_packed(run, i);
    } else if (run.end - run.first < run.size) {
      corrupted(i, "has no room for its " + std::to_string(run.size) + " bytes");
    }
    at += run.size;
    packed_at = run.end;
  }
  if (at != raw_size || packed_at != packed.size) {
    corrupted(packed.runs.size(), "does not begin at the end, byte " + std::to_string(raw_size) +
                                      ", packed " + std::to_string(packed.size) + ", but at " +
                                      std::to_string(at) + ", packed " + std::to_string(packed_at));
  }
}

}  // namespace vramx
