// Sizes in bytes, and how they are written in messages.
#pragma once

#include <cstdint>
#include <string>

namespace vramx {

using Bytes = std::uint64_t;

inline constexpr Bytes KiB = Bytes{1} << 10;
inline constexpr Bytes MiB = Bytes{1} << 20;
inline constexpr Bytes GiB = Bytes{1} << 30;

constexpr Bytes round_up(Bytes size, Bytes unit) { return (size + unit - 1) / unit * unit; }

/// "6.00 GiB", "32.00 MiB", "512 B".
std::string text(Bytes size);

}  // namespace vramx
