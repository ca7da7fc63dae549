// How a word of a weight is taken apart and put together again: for the processor and the card
// alike.
//
// A weight's sign and mantissa are as good as random; its exponent is one of a few. So a word is an
// exponent, a first byte (the top seven bits of the mantissa, and below them the sign: so an
// exponent above that byte, rotated by one, is the upper half of a word), and low bits: what is
// left of the mantissa. Low bits that are zero in every word of a run are dropped.
#pragma once

#ifdef __CUDACC_RTC__
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
#else
#include <cstdint>
#endif
#ifdef __CUDACC__
#define VRAMX_BOTH __host__ __device__
#else
#define VRAMX_BOTH
#endif

namespace vramx {

/// What the words of a run are; of `raw` nothing is known. The number is that of the bits of the
/// mantissa that are not zero throughout, where that is less than the format's.
enum class Words : uint32_t { raw, bf16, fp16, fp16_7, fp32, fp32_10, fp32_7 };

struct Shape {
  uint32_t bytes;        ///< of a word
  uint32_t exponent_at;  ///< its lowest bit
  uint32_t exponent_bits;
  uint32_t low_bits;  ///< of the mantissa, below the first byte: 0, 3 or 16
  uint32_t dropped;   ///< below those
};

VRAMX_BOTH constexpr Shape shape_of(Words words) {
  switch (words) {
    case Words::bf16:
      return {2, 7, 8, 0, 0};
    case Words::fp16:
      return {2, 10, 5, 3, 0};
    case Words::fp16_7:
      return {2, 10, 5, 0, 3};
    case Words::fp32:
      return {4, 23, 8, 16, 0};
    case Words::fp32_10:
      return {4, 23, 8, 3, 13};
    case Words::fp32_7:
      return {4, 23, 8, 0, 16};
    default:
      return {1, 0, 0, 0, 0};
  }
}

VRAMX_BOTH constexpr uint32_t exponent_of(Shape shape, uint32_t word) {
  return (word >> shape.exponent_at) & ((1U << shape.exponent_bits) - 1);
}

VRAMX_BOTH constexpr uint32_t first_byte_of(Shape shape, uint32_t word) {
  const uint32_t sign = word >> (8 * shape.bytes - 1);
  return ((word >> (shape.exponent_at - 7) & 0x7f) << 1) | sign;
}

VRAMX_BOTH constexpr uint32_t low_of(Shape shape, uint32_t word) {
  return (word >> shape.dropped) & ((1U << shape.low_bits) - 1);
}

VRAMX_BOTH constexpr uint32_t join(Shape shape, uint32_t exponent, uint32_t first, uint32_t low) {
  return ((first & 1) << (8 * shape.bytes - 1)) | (exponent << shape.exponent_at) |
         ((first >> 1) << (shape.exponent_at - 7)) | (low << shape.dropped);
}

}  // namespace vramx
