// Damage to packed weights is found, and leads nowhere outside where it is not.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "base/error.hpp"
#include "weights.hpp"

using namespace vramx;
using namespace vramx::testing;

TEST("one changed bit of the packed form, or one word put elsewhere, is found") {
  std::mt19937 random(8);
  const Content content = normal(Type::bf16, 50000);
  Content out;
  const PackedBlock packed = pack(content.data(), content.size(), all_of(Type::bf16, content), out);
  Content back(content.size());
  const auto unpacked = [&] { unpack(packed, out.data(), out.size(), back.data(), back.size()); };
  for (int round = 0; round < 1000; ++round) {
    std::byte& byte = out[random() % out.size()];
    const std::byte was = byte;
    byte ^= static_cast<std::byte>(1U << random() % 8);
    REQUIRE_THROWS(Corrupted, unpacked());
    byte = was;
  }
  std::swap_ranges(out.begin(), out.begin() + 4, out.begin() + 4);
  REQUIRE_THROWS(Corrupted, unpacked());
  std::swap_ranges(out.begin(), out.begin() + 4, out.begin() + 4);
  unpacked();
  REQUIRE(back == content);
}

TEST("packed bytes that are damaged lead nowhere outside") {
  std::mt19937 random(9);
  int thrown = 0;
  int unpacked = 0;
  for (int block = 0; block < 24; ++block) {
    const Mixed made = mixed(random);
    Content out;
    const PackedBlock packed = pack(made.content.data(), made.content.size(), made.ranges, out);
    for (int round = 0; round < 24; ++round) {
      Content damaged = out;
      const auto damage = [&](Bytes from, Bytes to) {
        if (from >= to) return;
        const Bytes at = from + random() % (to - from);
        const Bytes end = std::min(to, at + (random() % 2 == 0 ? 1 : 1 + random() % 5000));
        const bool high = random() % 4 == 0;
        for (Bytes i = at; i < end; ++i) damaged[i] = static_cast<std::byte>(high ? 255 : random());
      };
      const Run& run = packed.runs[random() % packed.runs.size()];
      // Each part is hit, however small.
      const std::array<Bytes, 8> ends{run.first, run.low,    run.codes,      run.places,
                                      run.bases, run.second, run.exceptions, run.end};
      const std::size_t part = random() % 8;
      if (part == 7) damage(0, out.size());
      if (part < 7) damage(ends[part], ends[part + 1]);
      for (const bool before : {false, true}) {
        const Fenced from(damaged, before);
        const Fenced to(made.content.size(), before);
        for (const Run& each : packed.runs) {
          try {
            unpack(each, from.data(), to.data());
            ++unpacked;
          } catch (const Corrupted&) {
            ++thrown;
          }
        }
      }
    }
  }
  REQUIRE(thrown > 10 && unpacked > 10);
}

TEST("runs that are damaged lead nowhere outside") {
  std::mt19937 random(10);
  int thrown = 0;
  int unpacked = 0;
  for (int block = 0; block < 40; ++block) {
    const Mixed made = mixed(random);
    if (made.content.empty()) continue;
    Content out;
    const PackedBlock packed = pack(made.content.data(), made.content.size(), made.ranges, out);
    const Fenced from(out, block % 2 == 0);
    const Fenced to(made.content.size(), block % 2 == 0);
    for (int round = 0; round < 300; ++round) {
      PackedBlock damaged = packed;
      // Most of all numbers that are a little off, or about as large as they can be.
      const auto damage = [&](auto& number) {
        using Number = std::remove_reference_t<decltype(number)>;
        const auto some = static_cast<Number>(random() % 64);
        switch (random() % 5) {
          case 0:
            number += some;
            break;
          case 1:
            number -= some;
            break;
          case 2:
            number ^= Number{1} << random() % (8 * sizeof(Number));
            break;
          case 3:
            number = std::numeric_limits<Number>::max() - some;
            break;
          default:
            number = some;
        }
      };
      for (std::uint32_t times = 1 + random() % 2; times-- > 0;) {
        Run& run = damaged.runs[random() % damaged.runs.size()];
        const std::array<std::uint64_t*, 10> offsets{
            &run.at,     &run.size,  &run.first,      &run.low, &run.codes,
            &run.places, &run.bases, &run.exceptions, &run.end, &run.second};
        const std::size_t field = random() % 15;
        if (field < 10) damage(*offsets[field]);
        if (field == 10) damage(run.tiles);
        if (field == 11) damage(run.frequent);
        if (field == 12) damage(run.next[random() % 2]);
        if (field == 13) run.words = static_cast<Words>(random() % 9);
        if (field == 14) {
          const std::size_t other = random() % damaged.runs.size();
          std::swap(run, damaged.runs[other]);
        }
      }
      if (random() % 8 == 0) damaged.runs.pop_back();
      try {
        unpack(damaged, from.data(), out.size(), to.data(), made.content.size());
        ++unpacked;
      } catch (const Corrupted&) {
        ++thrown;
      }
    }
    REQUIRE_THROWS(Corrupted,
                   unpack(packed, from.data(), out.size() - 16, to.data(), made.content.size()));
    REQUIRE_THROWS(Corrupted,
                   unpack(packed, from.data(), out.size(), to.data(), made.content.size() - 1));
  }
  REQUIRE(thrown > 1000 && unpacked > 100);
}

TEST("a run that does not lie where the last one ends, or whose parts do not, is refused") {
  std::mt19937 random(11);
  // Bytes of no type, then words, then both again.
  Content content;
  std::vector<TypedRange> ranges;
  for (const Type type : {Type::fp16, Type::fp32}) {
    content.resize(content.size() + 5000);
    const Content more = normal(type, 50000);
    ranges.push_back({.offset = content.size(), .size = more.size(), .type = type});
    content.insert(content.end(), more.begin(), more.end());
  }
  Content out;
  const PackedBlock packed = pack(content.data(), content.size(), ranges, out);
  const auto refused = [](const PackedBlock& damaged, Bytes size) {
    REQUIRE_THROWS(Corrupted, vramx::check(damaged, size));
  };
  vramx::check(packed, content.size());
  for (std::size_t i = 0; i < packed.runs.size(); ++i) {
    for (const auto offset : {&Run::at, &Run::size, &Run::first, &Run::end, &Run::low, &Run::codes,
                              &Run::places, &Run::bases, &Run::second}) {
      if (packed.runs[i].words == Words::raw && offset != &Run::at && offset != &Run::size &&
          offset != &Run::first && offset != &Run::end) {
        continue;
      }
      for (std::uint32_t bit = 0; bit < 64; ++bit) {
        PackedBlock damaged = packed;
        damaged.runs[i].*offset ^= std::uint64_t{1} << bit;
        refused(damaged, content.size());
      }
    }
    PackedBlock damaged = packed;
    Run& run = damaged.runs[i];
    run.words = static_cast<Words>(7 + random() % 1000);
    refused(damaged, content.size());
    if (packed.runs[i].words == Words::raw) continue;
    run = packed.runs[i];
    run.tiles ^= 1U << random() % 32;
    refused(damaged, content.size());
    run = packed.runs[i];
    for (const std::uint64_t exceptions : {std::uint64_t{0}, run.first, run.second - 16, run.second,
                                           run.second + 8, run.exceptions + 4, run.end + 16}) {
      run.exceptions = exceptions;
      refused(damaged, content.size());
    }
  }
  refused(packed, content.size() + 1);
  PackedBlock damaged = packed;
  damaged.size += 16;
  refused(damaged, content.size());
  // All as if it belonged so, but not in whole pieces.
  const auto run_of = [&](Bytes at, Bytes size, Bytes packed_at) {
    Run run = begin_run(Type::bf16, {}, at, size, packed_at);
    end_run(run, {});
    return run;
  };
  refused({.runs = {raw_run(0, 8, 0), run_of(8, 4096, 16)},
           .size = run_of(8, 4096, 16).end,
           .digest = 0},
          8 + 4096);
  refused({.runs = {run_of(0, 4088, 0)}, .size = run_of(0, 4088, 0).end, .digest = 0}, 4088);
  Run run = raw_run(0, 8, 0);
  run.end = 8;
  refused({.runs = {run}, .size = 8, .digest = 0}, 8);
  // One that ends before it begins.
  run = raw_run(16, 1000, 16);
  run.end = 0;
  refused({.runs = {raw_run(0, 16, 0), run, raw_run(1016, 16, 0)}, .size = 16, .digest = 0}, 1032);
  // Of no kind, and so small that its parts would lie likewise.
  run = run_of(0, 16, 0);
  run.words = static_cast<Words>(7);
  refused({.runs = {run}, .size = run.end, .digest = 0}, 16);
  REQUIRE_THROWS(BadConfig, begin_run(Type::bf16, {}, 0, 8 * GiB, 0));
}

TEST("weights that change while they are packed are found before they need more room") {
  Content content = normal(Type::bf16, 40000);
  Run run = begin_run(Type::bf16, survey(Type::bf16, content.data(), content.size()), 0,
                      content.size(), 0);
  end_run(run, count(run, content.data()));
  const Fenced to(run.end, false);
  for (const std::uint32_t word : {0x7f80U, std::uint32_t{(run.next[0] & 0xff) << 7}}) {
    content = words(Type::bf16, 40000, [word](std::size_t) { return word; });
    REQUIRE_THROWS(Corrupted, pack(run, content.data(), to.data()));
  }
}
