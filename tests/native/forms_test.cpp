// The lossless form of weights: the same bytes come back, whatever they are, and few are packed.
#include <cstdio>
#include <tuple>

#include "base/error.hpp"
#include "weights.hpp"

using namespace vramx;
using namespace vramx::testing;

namespace {

/// Packed as a run and as a block, the same bytes come back.
void require_exact(Type type, const Content& content) {
  Content out;
  const PackedBlock run = one_run(type, content, out);
  REQUIRE(comes_back(run, out, content));
  const PackedBlock block = pack(content.data(), content.size(), all_of(type, content), out);
  REQUIRE(comes_back(block, out, content));
}

double packed_part(Type type, const Content& content, Words words) {
  Content out;
  const PackedBlock packed = pack(content.data(), content.size(), all_of(type, content), out);
  REQUIRE(packed.runs.size() == 1 && packed.runs[0].words == words);
  REQUIRE(comes_back(packed, out, content));
  return static_cast<double>(out.size()) / static_cast<double>(content.size());
}

}  // namespace

TEST("every word of 16 bits comes back") {
  for (const Type type : {Type::bf16, Type::fp16}) {
    require_exact(type, words(type, 1 << 16, [](std::size_t i) { return i; }));
    // The rare ones among the frequent, so that the packed form is smaller.
    const Content frequent = normal(type, 1 << 22);
    Content content = frequent;
    const Content rare = words(type, 1 << 16, [](std::size_t i) { return i; });
    for (std::size_t i = 0; i < 1 << 16; ++i) {
      std::memcpy(content.data() + i * 128 + i % 64 * 2, rare.data() + i * 2, 2);
    }
    Content out;
    const PackedBlock packed = pack(content.data(), content.size(), all_of(type, content), out);
    REQUIRE(packed.runs.size() == 1 && packed.runs[0].words != Words::raw);
    REQUIRE(comes_back(packed, out, content));
  }
}

TEST("words of 32 bits come back: of every sign and exponent, with every bit of the mantissa") {
  std::mt19937 random(1);
  const std::array<std::uint32_t, 8> mantissas{0,        1,        0x400000, 0x400001,
                                               0x3fffff, 0x7fffff, 0x10000,  0x2000};
  require_exact(Type::fp32, words(Type::fp32, 1 << 22, [&](std::size_t i) {
                  const std::uint32_t mantissa =
                      i % 16 < 8 ? mantissas[i % 8] : std::uint32_t{1} << random() % 23;
                  return static_cast<std::uint32_t>(i >> 4 << 23) |
                         (i % 32 == 31 ? random() & 0x7fffff : mantissa);
                }));
  require_exact(Type::fp32, words(Type::fp32, 1 << 21, [&](std::size_t) { return random(); }));
}

TEST("words whose low bits are zero come back without them, and one bit keeps them") {
  for (const auto& [type, dropped, kept, few] :
       {std::tuple{Type::fp16, 3U, Words::fp16, Words::fp16_7},
        std::tuple{Type::fp32, 13U, Words::fp32, Words::fp32_10},
        std::tuple{Type::fp32, 16U, Words::fp32_10, Words::fp32_7}}) {
    Content content = normal(type, 100000, dropped);
    Content out;
    REQUIRE(one_run(type, content, out).runs[0].words == few);
    require_exact(type, content);
    const std::uint32_t bit = dropped - 1;
    content[content.size() - word_bytes(type) + bit / 8] |= static_cast<std::byte>(1U << bit % 8);
    REQUIRE(one_run(type, content, out).runs[0].words == kept);
    require_exact(type, content);
  }
}

TEST("words come back whatever exponents they have, and however many") {
  std::mt19937 random(4);
  for (const Type type : all_types) {
    const Shape shape = shape_of(all_bits(type));
    for (const std::uint32_t number : {1U, 2U, 3U, 4U, 11U, 12U, 13U, 32U, 256U}) {
      for (const std::uint32_t lowest : {0U, 7U}) {
        require_exact(type, words(type, 40000, [&](std::size_t) {
                        const std::uint32_t exponent = lowest + random() % number;
                        const std::uint32_t mask = (1U << shape.exponent_bits) - 1;
                        return join(shape, exponent & mask, random() & 0xff,
                                    random() & ((1U << shape.low_bits) - 1));
                      }));
      }
    }
  }
}

TEST("runs of any length come back, and of many groups of tiles") {
  for (const Type type : all_types) {
    const Bytes tile = tile_words * word_bytes(type);
    const Content most = normal(type, 3 * group_tiles * tile_words);
    const auto of_size = [&](Bytes size) {
      const Content content(most.begin(), most.begin() + static_cast<std::ptrdiff_t>(size));
      Content out;
      const PackedBlock packed = one_run(type, content, out);
      REQUIRE(comes_back(packed, out, content));
    };
    for (Bytes size = 16; size <= 5 * tile; size += 16) of_size(size);
    for (const Bytes tiles : {15, 16, 17, 32, 33}) {
      for (const Bytes size : {tiles * tile - 16, tiles * tile, tiles * tile + 16}) of_size(size);
    }
  }
}

TEST("a block of any size comes back, and of none at all") {
  for (const Type type : all_types) {
    for (const Bytes size : {Bytes{0}, Bytes{1}, Bytes{15}, 64 * KiB - 1, 64 * KiB, 64 * KiB + 1,
                             64 * KiB + 7, 100 * KiB + 3, 256 * KiB + 2}) {
      Content content = normal(type, size / word_bytes(type) + 1);
      content.resize(size);
      Content out;
      const PackedBlock packed = pack(content.data(), size, all_of(type, content), out);
      REQUIRE(comes_back(packed, out, content));
      REQUIRE(packed.runs.empty() == (size == 0));
    }
  }
}

TEST("blocks of tensors of several types with gaps come back, cut into runs that cover them") {
  std::mt19937 random(6);
  std::size_t small = 0;
  for (int round = 0; round < 150; ++round) {
    const Mixed block = mixed(random);
    Bytes at = 0;
    std::optional<Type> last = Type::fp32;
    for (const TypedRange& run : runs_of(block.content.size(), block.ranges)) {
      REQUIRE(run.offset == at && run.size > 0);
      if (run.type) REQUIRE(run.offset % 16 == 0 && run.size % 16 == 0);
      if (run.type) REQUIRE(run.size >= 64 * KiB);
      REQUIRE(run.type || last || at == 0);
      last = run.type;
      at = run.end();
    }
    REQUIRE(at == block.content.size());
    Content out;
    const PackedBlock packed = pack(block.content.data(), at, block.ranges, out);
    REQUIRE(comes_back(packed, out, block.content));
    const Run* before = nullptr;
    for (const Run& run : packed.runs) {
      if (run.words == Words::raw) {
        REQUIRE(before == nullptr || before->words != Words::raw);
      } else {
        REQUIRE((run.end - run.first) * 20 <= run.size * 19);
        ++small;
      }
      before = &run;
    }
  }
  REQUIRE(small > 50);
}

TEST("tensors of one type make one run over what aligns them, and not over more") {
  const auto runs = [](Bytes gap, std::optional<Type> between) {
    const Bytes each = 100 * KiB + 6;
    return runs_of(3 * each + gap, {{.offset = 0, .size = each, .type = Type::bf16},
                                    {.offset = each, .size = gap, .type = between},
                                    {.offset = each + gap, .size = each, .type = Type::bf16}})
        .size();
  };
  REQUIRE(runs(4 * KiB - 2, {}) == 2);
  REQUIRE(runs(4 * KiB, {}) == 4);
  REQUIRE(runs(2, Type::fp32) == 2);
  REQUIRE(runs(1022, Type::bf16) == 2);
  REQUIRE_THROWS(BadConfig, runs_of(10, {{.offset = 8, .size = 3, .type = {}}}));
  REQUIRE_THROWS(BadConfig, runs_of(10, {{.offset = 11, .size = 0, .type = {}}}));
  REQUIRE_THROWS(BadConfig, runs_of(10, {{.offset = 2, .size = 4, .type = {}},
                                         {.offset = 5, .size = 1, .type = {}}}));
}

TEST("packed weights are as small as their exponents allow") {
  const std::size_t number = 1 << 22;
  const double bf16 = packed_part(Type::bf16, normal(Type::bf16, number), Words::bf16);
  const double fp16 = packed_part(Type::fp16, normal(Type::fp16, number), Words::fp16);
  const double fp16_7 = packed_part(Type::fp16, normal(Type::fp16, number, 3), Words::fp16_7);
  const double fp32 = packed_part(Type::fp32, normal(Type::fp32, number), Words::fp32);
  const double fp32_10 = packed_part(Type::fp32, normal(Type::fp32, number, 13), Words::fp32_10);
  const double fp32_7 = packed_part(Type::fp32, normal(Type::fp32, number, 16), Words::fp32_7);
  std::printf("  bf16 %.4f, fp16 %.4f %.4f, fp32 %.4f %.4f %.4f\n", bf16, fp16, fp16_7, fp32,
              fp32_10, fp32_7);
  REQUIRE(bf16 <= 0.685);
  REQUIRE(fp16 <= 0.88);
  REQUIRE(fp16_7 <= 0.685);
  REQUIRE(fp32 <= 0.85);
  REQUIRE(fp32_10 <= 0.44);
  REQUIRE(fp32_7 <= 0.345);
}

TEST("what does not shrink stays as it is") {
  std::mt19937 random(7);
  // fp16 has few exponents, and any of them is in half a byte less.
  for (const Type type : {Type::bf16, Type::fp32}) {
    const Content content = words(type, 100000, [&](std::size_t) { return random(); });
    Content out;
    const PackedBlock packed = pack(content.data(), content.size(), all_of(type, content), out);
    REQUIRE(packed.runs.size() == 1 && packed.runs[0].words == Words::raw);
    REQUIRE(out == content);
    // Nor does it with bytes of no type after it, which make no run of their own.
    const std::vector<TypedRange> part{{.offset = 0, .size = content.size() - 5000, .type = type}};
    REQUIRE(pack(content.data(), content.size(), part, out).runs.size() == 1);
  }
}
