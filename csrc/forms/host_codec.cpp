#include "forms/host_codec.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <type_traits>

#include "base/error.hpp"

namespace vramx {

namespace {

static_assert(std::endian::native == std::endian::little, "packed numbers are little-endian");

template <Words words>
struct Kind {
  static constexpr Shape shape = shape_of(words);
  using Word = std::conditional_t<shape.bytes == 2, std::uint16_t, std::uint32_t>;
  using Tile = std::array<Word, tile_words>;
};

template <typename Work>
auto by_kind(Words words, const Work& work) {
  switch (words) {
    case Words::bf16:
      return work(Kind<Words::bf16>());
    case Words::fp16:
      return work(Kind<Words::fp16>());
    case Words::fp16_7:
      return work(Kind<Words::fp16_7>());
    case Words::fp32:
      return work(Kind<Words::fp32>());
    case Words::fp32_10:
      return work(Kind<Words::fp32_10>());
    case Words::fp32_7:
      return work(Kind<Words::fp32_7>());
    default:
      throw BadConfig("raw bytes have no words; copy them");
  }
}

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

std::uint32_t byte_of(std::uint32_t word, std::uint32_t index) {
  return word >> (8 * index) & 0xff;
}

std::uint32_t second_exponent(const Run& run, std::uint32_t code) {
  return byte_of(run.next[code / 4], code % 4);
}

constexpr std::uint8_t first_second = 3;  // after the codes of two bits
constexpr std::uint8_t exception = first_second + second_exponents;

/// By exponent: its code of two bits, or three more than its second code, or `exception`.
std::array<std::uint8_t, 256> codes_of(const Run& run) {
  std::array<std::uint8_t, 256> codes;
  codes.fill(exception);
  for (std::uint32_t i = second_exponents; i-- > 0;) {
    codes[second_exponent(run, i)] = static_cast<std::uint8_t>(first_second + i);
  }
  for (std::uint32_t i = frequent_exponents; i-- > 0;) {
    codes[byte_of(run.frequent, i)] = static_cast<std::uint8_t>(i);
  }
  return codes;
}

/// Bytes of a tile that are of the run: all but in the last.
template <typename Kind>
Bytes tile_bytes(const Run& run, std::uint32_t tile) {
  return std::min<Bytes>(sizeof(typename Kind::Tile),
                         run.size - tile * Bytes{sizeof(typename Kind::Tile)});
}

/// Three bits of each of a lane's words, in three words of 32 bits.
using LowPlanes = std::array<std::uint32_t, 3 * warp_lanes>;

void put_low(LowPlanes& planes, std::uint32_t lane, std::uint32_t number, std::uint32_t low) {
  if (number < 30) {
    const LowBits at = low_bits_in_tile(lane, number);
    planes[at.word] |= low << at.bit;
  } else {
    const std::uint32_t bit = number == 30 ? 15 : 31;
    for (std::uint32_t i = 0; i < 3; ++i) planes[i * warp_lanes + lane] |= (low >> i & 1) << bit;
  }
}

std::uint32_t get_low(const LowPlanes& planes, std::uint32_t lane, std::uint32_t number) {
  if (number < 30) {
    const LowBits at = low_bits_in_tile(lane, number);
    return planes[at.word] >> at.bit & 7;
  }
  const std::uint32_t bit = number == 30 ? 15 : 31;
  std::uint32_t low = 0;
  for (std::uint32_t i = 0; i < 3; ++i) low |= (planes[i * warp_lanes + lane] >> bit & 1) << i;
  return low;
}

/// The lists that grow by tile.
class Lists {
 public:
  Lists(const Run& run, std::byte* packed)
      : run_(run), packed_(packed), codes_(codes_of(run)), room_(room_of(run)) {}

  /// Marks where the tile begins, and the end as the tile after the last.
  void begin_tile(std::uint32_t tile) {
    if (tile % group_tiles == 0) {
      group_ = written_;
      store(packed_ + run_.bases + tile / group_tiles * sizeof(Base2),
            Base2{static_cast<std::uint32_t>(written_.second),
                  static_cast<std::uint32_t>(written_.exceptions)});
    }
    store(packed_ + run_.places + tile * sizeof(Place2),
          Place2{static_cast<std::uint16_t>(written_.second - group_.second),
                 static_cast<std::uint16_t>(written_.exceptions - group_.exceptions)});
  }

  /// The code of two bits of a word with this exponent.
  std::uint64_t code(std::uint32_t exponent, std::uint32_t word) {
    const std::uint8_t code = codes_[exponent];
    if (code < first_second) return code;
    if (code == exception) {
      if (written_.exceptions == room_.exceptions) changed();
      store(packed_ + run_.exceptions + 4 * written_.exceptions++, word | exponent << 16);
      return 0;
    }
    if (written_.second == room_.second) changed();
    const std::uint64_t bit = 3 * written_.second++;
    std::byte* const at = packed_ + run_.second + bit / 8;
    store(at,
          static_cast<std::uint16_t>(load<std::uint16_t>(at) | (code - first_second) << (bit % 8)));
    return escape;
  }

 private:
  [[noreturn]] static void changed() {
    throw Corrupted("weights changed while they were packed; pack them when nothing writes them");
  }

  const Run& run_;
  std::byte* packed_;
  std::array<std::uint8_t, 256> codes_;
  Escapes room_, written_, group_;
};

template <typename Kind>
void pack_tile(const Run& run, std::uint32_t tile, const typename Kind::Tile& words, Lists& lists,
               std::byte* packed) {
  constexpr Shape shape = Kind::shape;
  std::byte* const first = packed + run.first + tile * Bytes{tile_words};
  std::byte* const low = packed + run.low + tile * Bytes{tile_words / 8 * shape.low_bits};
  std::byte* const codes = packed + run.codes + tile * Bytes{tile_words / 4};
  LowPlanes planes{};
  for (std::uint32_t lane = 0; lane < warp_lanes; ++lane) {
    std::uint64_t lane_codes = 0;
    for (std::uint32_t number = 0; number < lane_words; ++number) {
      const std::uint32_t index = word_in_tile(shape, lane, number);
      const std::uint32_t word = words[index];
      first[first_in_tile(lane, number)] = static_cast<std::byte>(first_byte_of(shape, word));
      if constexpr (shape.low_bits == 16) {
        store(low + low_in_tile(lane, number), static_cast<std::uint16_t>(low_of(shape, word)));
      } else if constexpr (shape.low_bits == 3) {
        put_low(planes, lane, number, low_of(shape, word));
      }
      lane_codes |= lists.code(exponent_of(shape, word), index) << (2 * number);
    }
    store(codes + lane * sizeof(lane_codes), lane_codes);
  }
  if constexpr (shape.low_bits == 3) std::memcpy(low, planes.data(), sizeof(planes));
}

template <typename Kind>
void pack_run(const Run& run, const std::byte* block, std::byte* packed) {
  std::memset(packed + run.first, 0, run.end - run.first);
  Lists lists(run, packed);
  typename Kind::Tile words;
  for (std::uint32_t tile = 0; tile < run.tiles; ++tile) {
    lists.begin_tile(tile);
    const Bytes bytes = tile_bytes<Kind>(run, tile);
    if (bytes < sizeof(words)) {
      words.fill(static_cast<typename Kind::Word>(join(Kind::shape, run.frequent & 0xff, 0, 0)));
    }
    std::memcpy(words.data(), block + run.at + tile * Bytes{sizeof(words)}, bytes);
    pack_tile<Kind>(run, tile, words, lists, packed);
  }
  lists.begin_tile(run.tiles);
}

[[noreturn]] void corrupted(const std::string& what) {
  throw Corrupted("packed weights are damaged: " + what +
                  "; pack them again from where they came from");
}

/// What second codes and exceptions there are before a tile.
Escapes before_tile(const Run& run, const std::byte* packed, std::uint32_t tile) {
  const auto place = load<Place2>(packed + run.places + tile * sizeof(Place2));
  const auto base = load<Base2>(packed + run.bases + tile / group_tiles * sizeof(Base2));
  return {.second = std::uint64_t{base.second} + place.second,
          .exceptions = std::uint64_t{base.exceptions} + place.exceptions};
}

using Codes = std::array<std::uint64_t, warp_lanes>;

/// A bit for each word of a lane that has a second code.
std::uint64_t escapes_in(std::uint64_t codes) { return codes & codes >> 1 & 0x5555555555555555U; }

std::uint32_t second_codes(const Codes& codes) {
  std::uint32_t all = 0;
  for (const std::uint64_t lane : codes) {
    all += static_cast<std::uint32_t>(std::popcount(escapes_in(lane)));
  }
  return all;
}

/// Four exponents, by four codes of two bits in a byte.
using Fours = std::array<std::uint32_t, 256>;

Fours frequent_exponents_of(const Run& run) {
  Fours fours{};
  for (std::uint32_t codes = 0; codes < fours.size(); ++codes) {
    for (std::uint32_t i = 0; i < 4; ++i) {
      fours[codes] |= byte_of(run.frequent, codes >> (2 * i) & 3) << (8 * i);
    }
  }
  return fours;
}

/// The exponents of a tile's words by lane, but of exceptions.
using Exponents = std::array<std::uint8_t, tile_words>;

Exponents exponents_by(const Run& run, const Codes& codes, const Fours& fours,
                       const std::byte* packed, std::uint64_t second) {
  Exponents exponents;
  std::uint64_t bit = 3 * second;
  for (std::uint32_t lane = 0; lane < warp_lanes; ++lane) {
    std::uint8_t* const its = exponents.data() + lane * lane_words;
    for (std::uint32_t i = 0; i < sizeof(codes[lane]); ++i) {
      std::memcpy(its + 4 * i, &fours[codes[lane] >> (8 * i) & 0xff], 4);
    }
    for (std::uint64_t left = escapes_in(codes[lane]); left != 0; left &= left - 1) {
      const auto bits = load<std::uint16_t>(packed + run.second + bit / 8);
      its[std::countr_zero(left) / 2] =
          static_cast<std::uint8_t>(second_exponent(run, bits >> (bit % 8) & 7));
      bit += 3;
    }
  }
  return exponents;
}

template <typename Kind>
void unpack_tile(const Run& run, std::uint32_t tile, const Fours& fours, const std::byte* packed,
                 typename Kind::Tile& words) {
  constexpr Shape shape = Kind::shape;
  using Word = typename Kind::Word;
  const std::byte* const first = packed + run.first + tile * Bytes{tile_words};
  const std::byte* const low = packed + run.low + tile * Bytes{tile_words / 8 * shape.low_bits};
  const auto codes = load<Codes>(packed + run.codes + tile * Bytes{tile_words / 4});
  LowPlanes planes{};
  if constexpr (shape.low_bits == 3) planes = load<LowPlanes>(low);
  const Escapes from = before_tile(run, packed, tile);
  const Escapes to = before_tile(run, packed, tile + 1);
  const Escapes room = room_of(run);
  if (from.second + second_codes(codes) > room.second || to.exceptions > room.exceptions) {
    corrupted("a tile's exponents lie outside their part");
  }
  const Exponents exponents = exponents_by(run, codes, fours, packed, from.second);
  // Words that are stored beside each other have their parts beside each other.
  constexpr std::uint32_t stored = 16 / shape.bytes;
  for (std::uint32_t number = 0; number < lane_words; number += stored) {
    for (std::uint32_t lane = 0; lane < warp_lanes; ++lane) {
      const auto bytes =
          load<std::array<std::uint8_t, stored>>(first + first_in_tile(lane, number));
      std::array<std::uint16_t, stored> rest{};
      if constexpr (shape.low_bits == 16) {
        rest = load<decltype(rest)>(low + low_in_tile(lane, number));
      } else if constexpr (shape.low_bits == 3) {
        for (std::uint32_t i = 0; i < stored; ++i) {
          rest[i] = static_cast<std::uint16_t>(get_low(planes, lane, number + i));
        }
      }
      Word* const made = words.data() + word_in_tile(shape, lane, number);
      for (std::uint32_t i = 0; i < stored; ++i) {
        made[i] = static_cast<Word>(
            join(shape, exponents[lane * lane_words + number + i], bytes[i], rest[i]));
      }
    }
  }
  constexpr std::uint32_t exponent_mask = ((1U << shape.exponent_bits) - 1) << shape.exponent_at;
  for (std::uint64_t i = from.exceptions; i < to.exceptions; ++i) {
    const auto named = load<std::uint32_t>(packed + run.exceptions + 4 * i);
    const std::uint32_t index = named & 0xffff;
    if (index >= tile_words) corrupted("an exception is of no word of its tile");
    words[index] = static_cast<Word>((words[index] & ~exponent_mask) |
                                     (named >> 16 << shape.exponent_at & exponent_mask));
  }
}

}  // namespace

Survey survey(Type type, const void* words, Bytes size) {
  Survey found;
  by_kind(all_bits(type), [&](auto kind) {
    using Word = typename decltype(kind)::Word;
    constexpr Shape shape = decltype(kind)::shape;
    const auto* const bytes = static_cast<const std::byte*>(words);
    for (Bytes at = 0; at + sizeof(Word) <= size; at += sizeof(Word)) {
      const std::uint32_t word = load<Word>(bytes + at);
      ++found.exponents[exponent_of(shape, word)];
      found.low |= word;
    }
    found.low &= (1U << shape.exponent_at) - 1;
  });
  return found;
}

Escapes count(const Run& run, const void* block) {
  Escapes escapes;
  const auto codes = codes_of(run);
  by_kind(run.words, [&](auto kind) {
    using Word = typename decltype(kind)::Word;
    const auto* const bytes = static_cast<const std::byte*>(block) + run.at;
    for (Bytes at = 0; at < run.size; at += sizeof(Word)) {
      const std::uint8_t code = codes[exponent_of(decltype(kind)::shape, load<Word>(bytes + at))];
      escapes.exceptions += code == exception;
      escapes.second += code >= first_second && code != exception;
    }
  });
  return escapes;
}

void pack(const Run& run, const void* block, void* packed) {
  const auto* const from = static_cast<const std::byte*>(block);
  auto* const to = static_cast<std::byte*>(packed);
  if (run.words == Words::raw) {
    std::memset(to + run.first + run.size, 0, run.end - run.first - run.size);
    std::memcpy(to + run.first, from + run.at, run.size);
    return;
  }
  by_kind(run.words, [&](auto kind) { pack_run<decltype(kind)>(run, from, to); });
}

void unpack(const Run& run, const void* packed, void* block) {
  const auto* const from = static_cast<const std::byte*>(packed);
  auto* const to = static_cast<std::byte*>(block) + run.at;
  if (run.words == Words::raw) {
    std::memcpy(to, from + run.first, run.size);
    return;
  }
  by_kind(run.words, [&](auto kind) {
    const Fours fours = frequent_exponents_of(run);
    typename decltype(kind)::Tile words;
    for (std::uint32_t tile = 0; tile < run.tiles; ++tile) {
      unpack_tile<decltype(kind)>(run, tile, fours, from, words);
      std::memcpy(to + tile * Bytes{sizeof(words)}, words.data(),
                  tile_bytes<decltype(kind)>(run, tile));
    }
  });
}

std::uint64_t digest(const void* packed, Bytes size) {
  const auto* const bytes = static_cast<const std::byte*>(packed);
  std::uint64_t sum = 0;
  for (Bytes i = 0; i < size / 4; ++i) sum += digest_term(i, load<std::uint32_t>(bytes + 4 * i));
  return sum;
}

PackedBlock pack(const void* block, Bytes size, const std::vector<TypedRange>& ranges,
                 std::vector<std::byte>& out) {
  PackedBlock packed;
  for (const TypedRange& range : runs_of(size, ranges)) {
    Run run = raw_run(range.offset, range.size, packed.size);
    if (range.type) {
      const auto* const words = static_cast<const std::byte*>(block) + range.offset;
      Run small = begin_run(*range.type, survey(*range.type, words, range.size), range.offset,
                            range.size, packed.size);
      end_run(small, count(small, block));
      if (pays(small)) run = small;
    }
    add_run(packed.runs, run);
    packed.size = packed.runs.back().end;
  }
  out.resize(packed.size);
  for (const Run& run : packed.runs) pack(run, block, out.data());
  packed.digest = digest(out.data(), out.size());
  return packed;
}

void unpack(const PackedBlock& packed, const void* bytes, Bytes packed_size, void* block,
            Bytes size) {
  if (packed_size != packed.size) {
    corrupted("there are " + std::to_string(packed_size) + " of " + std::to_string(packed.size) +
              " bytes");
  }
  check(packed, size);
  if (digest(bytes, packed_size) != packed.digest) corrupted("their digest is another");
  for (const Run& run : packed.runs) unpack(run, bytes, block);
}

}  // namespace vramx
