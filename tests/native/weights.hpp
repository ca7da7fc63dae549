// Weights to pack, and memory in which a step outside is seen.
#pragma once

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "base/pages.hpp"
#include "check.hpp"
#include "forms/host_codec.hpp"
#include "normal.hpp"

namespace vramx::testing {

using Content = std::vector<std::byte>;

inline constexpr std::array<Type, 3> all_types{Type::bf16, Type::fp16, Type::fp32};

inline Bytes word_bytes(Type type) { return shape_of(all_bits(type)).bytes; }

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

inline Content words(Type type, std::size_t number, const Words32& word) {
  Content content(number * word_bytes(type));
  for (std::size_t i = 0; i < number; ++i) {
    const std::uint32_t value = word(i);
    std::memcpy(content.data() + i * word_bytes(type), &value, word_bytes(type));
  }
  return content;
}

/// A value as a word of the type, rounded towards zero.
inline std::uint32_t as_word(Type type, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (type == Type::fp32) return bits;
  if (type == Type::bf16) return bits >> 16;
  const std::uint32_t sign = bits >> 31 << 15;
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127 + 15;
  const std::uint32_t mantissa = bits >> 13 & 0x3ff;
  if (exponent <= 0) return sign | (exponent < -10 ? 0 : (mantissa | 0x400) >> (1 - exponent));
  return sign | static_cast<std::uint32_t>(exponent) << 10 | mantissa;
}

inline Content normal(Type type, std::size_t number, std::uint32_t dropped = 0) {
  std::mt19937 random(3);
  return words(type, number, [&](std::size_t) {
    return as_word(type, normal_weight(random)) >> dropped << dropped;
  });
}

inline std::vector<TypedRange> all_of(Type type, const Content& content) {
  return {{.offset = 0, .size = content.size(), .type = type}};
}

/// One packed run of all of these words, however few they are and whether it pays or not.
inline PackedBlock one_run(Type type, const Content& content, Content& out) {
  Run run = begin_run(type, survey(type, content.data(), content.size()), 0, content.size(), 0);
  end_run(run, count(run, content.data()));
  out.assign(run.end, std::byte{0xaa});
  const Fenced fenced(out, false);
  pack(run, content.data(), fenced.data());
  out = fenced.content();
  return {.runs = {run}, .size = run.end, .digest = digest(out.data(), out.size())};
}

inline bool comes_back(const PackedBlock& packed, const Content& bytes, const Content& content) {
  for (const bool before : {false, true}) {
    const Fenced from(bytes, before);
    const Fenced to(content.size(), before);
    unpack(packed, from.data(), bytes.size(), to.data(), content.size());
    if (to.content() != content) return false;
  }
  return true;
}

/// What a block may hold beside bytes of no type.
struct Mixed {
  Content content;
  std::vector<TypedRange> ranges;
};

inline Mixed mixed(std::mt19937& random) {
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

}  // namespace vramx::testing
