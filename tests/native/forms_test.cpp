// The lossless form of weights: the same bytes come back, whatever they are, and damage stays
// inside.
#include "forms/host_codec.hpp"

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <type_traits>

#include "base/error.hpp"
#include "base/pages.hpp"
#include "check.hpp"

using namespace vramx;

namespace {

using Content = std::vector<std::byte>;

constexpr std::array<Type, 3> all_types{Type::bf16, Type::fp16, Type::fp32};

Bytes word_bytes(Type type) { return shape_of(all_bits(type)).bytes; }

/// Bytes between pages that nothing may touch: against the one after them, or the one before.
class Fenced {
 public:
  Fenced(Bytes size, bool before) : size_(size) {
    const Bytes page = 4 * KiB;
    const Bytes inside = round_up(size, page);
    pages_ = map_pages(inside + 2 * page).value();
    auto* const start = static_cast<std::byte*>(pages_.data());
    REQUIRE(mprotect(start, page, PROT_NONE) == 0);
    REQUIRE(mprotect(start + page + inside, page, PROT_NONE) == 0);
    data_ = start + page + (before ? 0 : inside - size);
  }
  Fenced(const Content& content, bool before) : Fenced(content.size(), before) {
    if (!content.empty()) std::memcpy(data_, content.data(), content.size());
  }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  ~Fenced() { unmap_pages(pages_); }

  std::byte* data() const { return data_; }
  Content content() const { return {data_, data_ + size_}; }

 private:
  Bytes size_;
  Range pages_;
  std::byte* data_;
};

/// By number of the word.
using Words32 = std::function<std::uint32_t(std::size_t)>;

Content words(Type type, std::size_t number, const Words32& word) {
  Content content(number * word_bytes(type));
  for (std::size_t i = 0; i < number; ++i) {
    const std::uint32_t value = word(i);
    std::memcpy(content.data() + i * word_bytes(type), &value, word_bytes(type));
  }
  return content;
}

/// A value as a word of the type, rounded towards zero.
std::uint32_t as_word(Type type, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (type == Type::fp32) return bits;
  if (type == Type::bf16) return bits >> 16;
  const std::uint32_t sign = bits >> 31 << 15;
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127 + 15;
  const std::uint32_t mantissa = bits >> 13 & 0x3ff;
  if (exponent <= 0) return sign | (exponent < -10 ? 0 : (mantissa | 0x400) >> (1 - exponent));
  return sign | static_cast<std::uint32_t>(exponent) << 10 | mantissa;
}

Content normal(Type type, std::size_t number, std::uint32_t dropped = 0) {
  std::mt19937 random(3);
  std::normal_distribution<float> weights(0, 0.02F);
  return words(type, number, [&](std::size_t) {
    return as_word(type, weights(random)) >> dropped << dropped;
  });
}

std::vector<TypedRange> all_of(Type type, const Content& content) {
  return {{.offset = 0, .size = content.size(), .type = type}};
}

/// One packed run of all of these words, however few they are and whether it pays or not.
PackedBlock one_run(Type type, const Content& content, Content& out) {
  Run run = begin_run(type, survey(type, content.data(), content.size()), 0, content.size(), 0);
  end_run(run, count(run, content.data()));
  out.assign(run.end, std::byte{0xaa});
  const Fenced fenced(out, false);
  pack(run, content.data(), fenced.data());
  out = fenced.content();
  return {.runs = {run}, .size = run.end, .digest = digest(out.data(), out.size())};
}

bool comes_back(const PackedBlock& packed, const Content& bytes, const Content& content) {
  for (const bool before : {false, true}) {
    const Fenced from(bytes, before);
    const Fenced to(content.size(), before);
    unpack(packed, from.data(), bytes.size(), to.data(), content.size());
    if (to.content() != content) return false;
  }
  return true;
}

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

/// What a block may hold beside bytes of no type.
struct Mixed {
  Content content;
  std::vector<TypedRange> ranges;
};

Mixed mixed(std::mt19937& random) {
  Mixed block;
  const std::size_t parts = 1 + random() % 6;
  for (std::size_t part = 0; part < parts; ++part) {
    const std::uint32_t kind = random() % 4;
    Content more;
    std::optional<Type> type;
    if (kind < 3) {
      type = all_types[kind];
      more = normal(*type, random() % 2 == 0 ? random() % 300 : 17000 + random() % 40000,
                    random() % 3 == 0 ? 3 : 0);
      // Some words that few others are like.
      for (std::size_t i = random() % 8; i-- > 0 && !more.empty();) {
        more[random() % more.size()] = static_cast<std::byte>(random());
      }
    } else {
      more.resize(random() % 9000);
      for (auto& byte : more) byte = static_cast<std::byte>(random());
    }
    const Bytes alignment = Bytes{1} << random() % 10;
    block.content.resize(round_up(block.content.size(), alignment) + random() % 3 * 3000);
    block.ranges.push_back({.offset = block.content.size(), .size = more.size(), .type = type});
    block.content.insert(block.content.end(), more.begin(), more.end());
  }
  block.content.resize(block.content.size() + random() % 5000);
  return block;
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
  const std::array<std::uint32_t, 8> mantissas{0, 1, 0x400000, 0x400001, 0x3fffff, 0x7fffff, 0x10000,
                                               0x2000};
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
  std::printf("  bf16 %.4f, fp16 %.4f, of 7 bits %.4f, fp32 %.4f, of 10 bits %.4f, of 7 bits %.4f\n",
              bf16, fp16, fp16_7, fp32, fp32_10, fp32_7);
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
  }
}

TEST("one changed bit of the packed form, or one word put elsewhere, is found") {
  std::mt19937 random(8);
  const Content content = normal(Type::bf16, 50000);
  Content out;
  const PackedBlock packed = pack(content.data(), content.size(), all_of(Type::bf16, content), out);
  Content back(content.size());
  const auto unpacked = [&] {
    unpack(packed, out.data(), out.size(), back.data(), back.size());
  };
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
    REQUIRE_THROWS(Corrupted, unpack(packed, from.data(), out.size() - 16, to.data(),
                                     made.content.size()));
    REQUIRE_THROWS(Corrupted, unpack(packed, from.data(), out.size(), to.data(),
                                     made.content.size() - 1));
  }
  REQUIRE(thrown > 1000 && unpacked > 100);
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
