// Unpacking: a warp puts the words of a tile together again. Whatever the packed bytes are, it
// reads only those of the run and writes only its own, as the processor's twin does.
#pragma once

#include "forms/warps.cuh"

namespace vramx {

namespace {

__device__ uint32_t bytes_of(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}

/// Eight second codes, three bits each, as nibbles.
__device__ uint32_t nibbles_of(uint32_t codes) {
  codes = choose(0x00000fff, codes, codes << 4);
  codes = choose(0x003f003f, codes, codes << 2);
  codes = choose(0x07070707, codes, codes << 1);
  return codes & 0x77777777;
}

/// By four codes of two bits: which bytes of the three commonest exponents (0 to 2) and of the next
/// escapes' exponents (from 4) are theirs, a nibble each, and from bit 16 four times the escapes.
__device__ uint32_t selection_of(uint32_t codes) {
  uint32_t selector = 0;
  uint32_t escapes = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t code = (codes >> (2 * i)) & 3;
    selector |= (code == escape ? 4 + escapes : code) << (4 * i);
    if (code == escape) ++escapes;
  }
  return selector | (4 * escapes) << 16;
}

/// The low bits of a pair of words, from bits 0 and 16.
__device__ uint32_t low_of_pair(const uint32_t (&low)[3], uint32_t pair) {
  if (pair < 15) return low[pair / 5] >> (pair % 5 * 3);
  return (low[0] >> 15 & 0x00010001) | (low[1] >> 14 & 0x00020002) | (low[2] >> 13 & 0x00040004);
}

/// What a pair of words is but for their low bits, as 16 bits each: exponents above first bytes.
template <Words W>
__device__ uint32_t upper_of(uint32_t pair) {
  constexpr Shape shape = shape_of(W);
  if (shape.exponent_bits == 8) return choose(0x80008000, pair << 15, pair >> 1);
  return choose(0x80008000, pair << 15, pair << 2);
}

template <Words W>
__device__ void unpack_tile(const uint8_t* packed, uint8_t* block, const Run& run, uint64_t tile,
                            const uint32_t* selections) {
  constexpr Shape shape = shape_of(W);
  const uint32_t lane = lane_number();
  const auto* first = reinterpret_cast<const uint4*>(packed + run.first + tile * tile_words);
  const uint4 half0 = __ldcs(first + lane);
  const uint4 half1 = __ldcs(first + warp_lanes + lane);
  const uint2 codes =
      __ldcs(reinterpret_cast<const uint2*>(packed + run.codes) + tile * warp_lanes + lane);
  const Counted here = before(packed, run, tile);
  const Counted after = before(packed, run, tile + 1);
  uint32_t low[3] = {};
  if (shape.low_bits == 3) {
    const auto* bits = reinterpret_cast<const uint32_t*>(packed + run.low) + tile * 3 * warp_lanes;
    for (uint32_t i = 0; i < 3; ++i) low[i] = __ldcs(bits + i * warp_lanes + lane);
  }
  const uint32_t escapes0 = __popc(codes.x & codes.x >> 1 & 0x55555555);
  const uint32_t escapes1 = __popc(codes.y & codes.y >> 1 & 0x55555555);
  const uint32_t from = here.second + scan(escapes0 + escapes1, lane) - (escapes0 + escapes1);
  const auto* second = reinterpret_cast<const uint32_t*>(packed + run.second);
  // Of three that are read together: the part is 16 bytes longer than its codes.
  const auto last = static_cast<uint32_t>((run.exceptions - run.second) / 4) - 3;
  uint32_t queue[2][2];
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t bit = 3 * (half == 0 ? from : from + escapes0);
    const uint32_t* at = second + min(bit / 32, last);
    const uint32_t a = __ldg(at);
    const uint32_t b = __ldg(at + 1);
    const uint32_t c = __ldg(at + 2);
    const uint32_t codes0 = __funnelshift_r(a, b, bit);
    const uint32_t codes1 = __funnelshift_r(b, c, bit);
    queue[half][0] = nibbles_of(codes0 & 0xffffff);
    queue[half][1] = nibbles_of(__funnelshift_r(codes0, codes1, 24) & 0xffffff);
  }
  uint8_t* to = block + run.at + tile * (tile_words * shape.bytes);
  const uint64_t room = run.size - tile * (tile_words * shape.bytes);
  const uint32_t firsts[8] = {half0.x, half0.y, half0.z, half0.w,
                              half1.x, half1.y, half1.z, half1.w};
  uint4 low16 = {};
  uint32_t out[4];
#pragma unroll
  for (uint32_t four = 0; four < 8; ++four) {
    uint32_t (&next)[2] = queue[four / 4];
    const uint32_t selection =
        selections[(four < 4 ? codes.x : codes.y) >> (8 * (four % 4)) & 0xff];
    const uint32_t escaped = bytes_of(run.next[0], run.next[1], next[0]);
    const uint32_t exponents = bytes_of(run.frequent, escaped, selection);
    const uint32_t used = selection >> 16;
    next[0] = __funnelshift_r(next[0], next[1], used);
    next[1] >>= used;
    const uint32_t upper[2] = {upper_of<W>(bytes_of(firsts[four], exponents, 0x5140)),
                               upper_of<W>(bytes_of(firsts[four], exponents, 0x7362))};
    if (shape.low_bits == 16 && four % 2 == 0) {
      low16 = __ldcs(reinterpret_cast<const uint4*>(packed + run.low + tile * (2 * tile_words)) +
                     four / 2 * warp_lanes + lane);
    }
#pragma unroll
    for (uint32_t two = 0; two < 2; ++two) {
      const uint32_t pair = 2 * four + two;
      if (shape.bytes == 2) {
        uint32_t both = upper[two];
        if (shape.low_bits == 3) both = choose(0x00070007, low_of_pair(low, pair), both);
        if (shape.dropped == 3) both &= 0xfff8fff8;
        out[pair % 4] = both;
      } else {
        uint32_t lower = 0;
        if (shape.low_bits == 3) lower = (low_of_pair(low, pair) & 0x00070007) << 13;
        if (shape.low_bits == 16) {
          const uint32_t low_words[4] = {low16.x, low16.y, low16.z, low16.w};
          lower = low_words[pair % 4];
        }
        out[2 * two] = bytes_of(lower, upper[two], 0x5410);
        out[2 * two + 1] = bytes_of(lower, upper[two], 0x7632);
      }
    }
    if (shape.bytes == 2 && four % 2 == 0) continue;
    const uint32_t piece = shape.bytes == 2 ? four / 2 : four;
    const uint32_t offset = (piece * warp_lanes + lane) * 16;
    if (offset < room) {
      __stcs(reinterpret_cast<uint4*>(to + offset), make_uint4(out[0], out[1], out[2], out[3]));
    }
  }
  if (here.exceptions == after.exceptions) return;
  __syncwarp();
  const auto* exceptions = reinterpret_cast<const uint32_t*>(packed + run.exceptions);
  const uint64_t end = min(uint64_t{after.exceptions}, (run.end - run.exceptions) / 4);
  for (uint64_t i = uint64_t{here.exceptions} + lane; i < end; i += warp_lanes) {
    const uint32_t exception = exceptions[i];
    const uint32_t number = exception & 0xffff;
    if (number >= tile_words || number * shape.bytes >= room) continue;
    const uint32_t mask = ((1U << shape.exponent_bits) - 1) << shape.exponent_at;
    const uint32_t bits = exception >> 16 << shape.exponent_at;
    if (shape.bytes == 2) {
      auto* word = reinterpret_cast<uint16_t*>(to) + number;
      *word = choose(mask, bits, *word);
    } else {
      auto* word = reinterpret_cast<uint32_t*>(to) + number;
      *word = choose(mask, bits, *word);
    }
  }
}

template <Words W>
__device__ void unpack(const uint8_t* packed, uint8_t* block, const Run& run) {
  __shared__ uint32_t selections[256];
  selections[threadIdx.x] = selection_of(threadIdx.x);
  __syncthreads();
  for (uint64_t tile = warp_number(); tile < run.tiles; tile += warp_count()) {
    unpack_tile<W>(packed, block, run, tile, selections);
  }
}

}  // namespace

}  // namespace vramx
