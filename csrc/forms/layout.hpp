// Where the parts of a packed run lie.
//
// Tiles of 1,024 words, one for a warp of 32 lanes; the last one is filled up with words of the
// commonest exponent that nobody reads. Each lane has 32 words of a tile, numbered in the order in
// which it stores them, 16 bytes at a time. Of a run's exponents the three commonest have codes of
// two bits (0 to 2); the next eight have code 3 and a second code of three bits. Any other is an
// exception: it has code 0, and is named in a list. (Two levels of fixed width, so that a lane
// finds its codes by counting; a Huffman code would be 2 % smaller and as slow as its longest
// path.)
//
// Parts, each aligned to 16 bytes, in this order:
//   first       1,024 bytes a tile: by halves of a lane's words, by lane, 16 words
//   low         of 3 bits: 384 bytes a tile, three words of 32 bits by lane, by kind of word
//   number;
//               of 16 bits: 2,048 bytes a tile, by quarters of a lane's words, by lane, 8 words
//   codes       256 bytes a tile: by lane 64 bits, two bits a word
//   places      4 bytes a tile and one more: what second codes and exceptions there are before the
//               tile in its group of 16 tiles
//   bases       8 bytes for each 16 of the places, or fewer: what there are before the group
//   second      three bits a code, from the lowest bit, without gaps; 16 bytes more than that
//   exceptions  4 bytes each: the word's number in its tile, and from bit 16 its exponent
// Second codes and exceptions come by tile, by lane, by number of the lane's word. Numbers are
// little-endian; bytes and bits between the parts and after the last are zero.
#pragma once

#include "forms/word.hpp"

namespace vramx {

inline constexpr uint32_t tile_words = 1024;
inline constexpr uint32_t warp_lanes = 32;
inline constexpr uint32_t lane_words = 32;
inline constexpr uint32_t group_tiles = 16;
inline constexpr uint32_t frequent_exponents = 3;
inline constexpr uint32_t second_exponents = 8;
inline constexpr uint32_t escape = 3;

/// A run of words of one kind in a block, and its packed form. Offsets are bytes from the start of
/// the block's packed form. Of raw ones `first` holds the bytes as they are.
struct Run {
  Words words;
  uint32_t tiles;
  uint64_t at;    ///< in the block, a multiple of 16 unless raw
  uint64_t size;  ///< likewise
  uint64_t first, low, codes, places, bases, second, exceptions;
  uint64_t end;
  uint32_t frequent;  ///< by code, a byte each; the highest is zero
  uint32_t next[2];   ///< by second code, a byte each
};

struct Place2 {
  uint16_t second, exceptions;
};
struct Base2 {
  uint32_t second, exceptions;
};

/// The number in its tile of a lane's word.
VRAMX_BOTH constexpr uint32_t word_in_tile(Shape shape, uint32_t lane, uint32_t number) {
  const uint32_t stored = 16 / shape.bytes;  // words at once
  return number / stored * (warp_lanes * stored) + lane * stored + number % stored;
}

/// Where the first byte of a lane's word lies in its tile's.
VRAMX_BOTH constexpr uint32_t first_in_tile(uint32_t lane, uint32_t number) {
  return number / 16 * 512 + lane * 16 + number % 16;
}

/// Where 16 low bits of a lane's word lie in its tile's, in bytes.
VRAMX_BOTH constexpr uint32_t low_in_tile(uint32_t lane, uint32_t number) {
  return number / 8 * 512 + lane * 16 + number % 8 * 2;
}

/// Three low bits of a lane's word: in which of its tile's words of 32 bits, and from which bit;
/// but of words 30 and 31, whose bits lie one in each of the three, bit 15 or 31.
struct LowBits {
  uint32_t word, bit;
};
VRAMX_BOTH constexpr LowBits low_bits_in_tile(uint32_t lane, uint32_t number) {
  const uint32_t pair = number / 2;
  return {pair / 5 * warp_lanes + lane, pair % 5 * 3 + number % 2 * 16};
}

/// A packed form's digest is the sum of this over its words of 32 bits: another value of any one
/// word changes it.
VRAMX_BOTH constexpr uint64_t digest_term(uint64_t index, uint32_t word) {
  return word * (2 * index + 1) * 0x9e3779b97f4a7c15U;
}

}  // namespace vramx
