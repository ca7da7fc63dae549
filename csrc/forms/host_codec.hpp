// The processor's twin of the card's kernels: packs and unpacks on one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "forms/tables.hpp"

namespace vramx {

Survey survey(Type type, const void* words, Bytes size);

/// How many of the run's words have no code of two bits, by its tables.
Escapes count(const Run& run, const void* block);

/// Writes a run's packed form. Throws Corrupted where the block's bytes need more room than it has.
void pack(const Run& run, const void* block, void* packed);

/// Writes a run's bytes, of a run that passed `check`. Whatever the packed bytes are, reads only
/// those of the run and writes only its own; throws Corrupted where they lead elsewhere.
void unpack(const Run& run, const void* packed, void* block);

std::uint64_t digest(const void* packed, Bytes size);

PackedBlock pack(const void* block, Bytes size, const std::vector<TypedRange>& ranges,
                 std::vector<std::byte>& out);

/// Throws Corrupted, before it writes, unless sizes, runs and the digest are those of these bytes.
void unpack(const PackedBlock& packed, const void* bytes, Bytes packed_size, void* block,
            Bytes size);

}  // namespace vramx
