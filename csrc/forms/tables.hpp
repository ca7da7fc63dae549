// How a block's packed form is laid out: what the processor and the card share in making it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.hpp"
#include "forms/layout.hpp"

namespace vramx {

/// A tensor's type, of those that can be packed.
enum class Type { bf16, fp16, fp32 };

/// The words of a type of which every bit counts.
constexpr Words all_bits(Type type) {
  return type == Type::bf16 ? Words::bf16 : type == Type::fp16 ? Words::fp16 : Words::fp32;
}

/// What a run's words have in common.
struct Survey {
  std::array<std::uint32_t, 256> exponents{};  ///< how often each occurs
  std::uint32_t low = 0;                       ///< bits of the mantissa that some word has
};

/// Words of a run that have no code of two bits.
struct Escapes {
  std::uint64_t second = 0, exceptions = 0;
};

/// Bytes of a block that are of one type; of no known one where it is absent.
struct TypedRange {
  Bytes offset = 0;
  Bytes size = 0;
  std::optional<Type> type;

  Bytes end() const { return offset + size; }
};

struct PackedBlock {
  std::vector<Run> runs;  ///< by place; they cover the block
  Bytes size = 0;
  std::uint64_t digest = 0;
};

/// Cuts a block, of which these ranges are known in order, into runs that cover it: of one type, or
/// of none where they are to stay raw.
std::vector<TypedRange> runs_of(Bytes block_size, const std::vector<TypedRange>& ranges);

/// All of a run but where its exceptions begin and end. Of some of its words the exponents may do.
Run begin_run(Type type, const Survey& survey, Bytes at, Bytes size, Bytes packed_at);
void end_run(Run& run, Escapes escapes);
Run raw_run(Bytes at, Bytes size, Bytes packed_at);

/// Whether what is packed is so much smaller that it is worth unpacking.
constexpr bool pays(Bytes packed, Bytes raw) { return packed <= raw - raw / 20; }
inline bool pays(const Run& run) { return pays(run.end - run.first, run.size); }

/// Adds a run that begins where the last one ends, in the block and packed.
void add_run(std::vector<Run>& runs, const Run& run);

/// How many of each a run has room for.
Escapes room_of(const Run& run);

/// Throws Corrupted unless a decoder that stays within these runs' parts stays within the packed
/// form's bytes and the block's.
void check(const PackedBlock& packed, Bytes raw_size);

}  // namespace vramx
