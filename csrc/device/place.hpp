// Where bytes have copies: the card, the host, and what is below it. What is in a place has a copy,
// or room for one, in each place below.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace vramx {

enum class Place : std::uint8_t { card, host, below_host };

inline constexpr std::size_t places = 3;

constexpr Place above(Place place) {
  return static_cast<Place>(static_cast<std::uint8_t>(place) - 1);
}
constexpr Place below(Place place) {
  return static_cast<Place>(static_cast<std::uint8_t>(place) + 1);
}

template <class T>
struct PerPlace {
  std::array<T, places> each{};
  T& operator[](Place place) { return each[static_cast<std::size_t>(place)]; }
  const T& operator[](Place place) const { return each[static_cast<std::size_t>(place)]; }
};

}  // namespace vramx
