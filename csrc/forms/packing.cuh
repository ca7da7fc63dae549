// Packing: what a run's words are, how many codes of each kind there are, where they go, and that.
#pragma once

#include "forms/warps.cuh"

namespace vramx {

namespace {

/// In a table by exponent: no code, or 8 and the second code.
constexpr uint32_t no_code = 255;
constexpr uint32_t second_from = 8;
/// The histogram of exponents is over one of so many pieces; a run is coded exactly by any tables.
constexpr uint64_t surveyed = 8;

template <class Word>
__device__ void survey(const Word* words, uint64_t count, uint32_t exponent_at,
                       uint32_t exponent_bits, uint32_t* exponents, uint32_t* low) {
  constexpr uint32_t in_piece = 16 / sizeof(Word);
  __shared__ uint32_t seen[warps][256];
  for (uint32_t i = threadIdx.x; i < warps * 256; i += blockDim.x) seen[i / 256][i % 256] = 0;
  __syncthreads();
  uint32_t* mine = seen[threadIdx.x / warp_lanes];
  const uint32_t mask = (1U << exponent_bits) - 1;
  const uint64_t threads = gridDim.x * uint64_t{blockDim.x};
  const uint64_t pieces = (count + in_piece - 1) / in_piece;
  uint32_t any = 0;
  for (uint64_t piece = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; piece < pieces;
       piece += threads) {
    const uint64_t from = piece * in_piece;
    const bool whole = from + in_piece <= count;
    uint4 loaded = {};
    if (whole) loaded = *reinterpret_cast<const uint4*>(words + from);
    const uint32_t parts[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
    const bool counts = pieces < 65536 || piece / warp_lanes % surveyed == 0;
#pragma unroll
    for (uint32_t i = 0; i < in_piece; ++i) {
      if (!whole && from + i >= count) break;
      const uint32_t bit = i * 8 * sizeof(Word);
      const uint32_t word = whole
                                ? (parts[bit / 32] >> (bit % 32)) & (~0U >> (32 - 8 * sizeof(Word)))
                                : words[from + i];
      any |= word;
      if (counts) atomicAdd(&mine[word >> exponent_at & mask], 1);
    }
  }
  any &= (1U << exponent_at) - 1;
  for (uint32_t step = 16; step > 0; step /= 2) any |= __shfl_xor_sync(all_lanes, any, step);
  if (lane_number() == 0 && any != 0) atomicOr(low, any);
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) {
    uint32_t sum = 0;
    for (uint32_t warp = 0; warp < warps; ++warp) sum += seen[warp][i];
    if (sum != 0) atomicAdd(&exponents[i], sum);
  }
}

/// By exponent: its code, or `second_from` and its second code, or `no_code`.
__device__ void make_codes(uint8_t* codes, const Run& run) {
  const uint32_t exponent = threadIdx.x;
  uint32_t code = no_code;
  for (uint32_t i = second_exponents; i-- > 0;) {
    if ((run.next[i / 4] >> (8 * (i % 4)) & 0xff) == exponent) code = second_from + i;
  }
  for (uint32_t i = frequent_exponents; i-- > 0;) {
    if ((run.frequent >> (8 * i) & 0xff) == exponent) code = i;
  }
  codes[exponent] = code;
  __syncthreads();
}

/// A lane's word; beyond the run's end one that takes no room.
template <Words W>
__device__ uint32_t word_at(const uint8_t* block, const Run& run, uint64_t tile, uint32_t lane,
                            uint32_t number) {
  constexpr Shape shape = shape_of(W);
  const uint64_t offset =
      (tile * tile_words + word_in_tile(shape, lane, number)) * uint64_t{shape.bytes};
  if (offset >= run.size) return (run.frequent & 0xff) << shape.exponent_at;
  if (shape.bytes == 2) return *reinterpret_cast<const uint16_t*>(block + run.at + offset);
  return *reinterpret_cast<const uint32_t*>(block + run.at + offset);
}

template <Words W>
__device__ void count(const uint8_t* block, const Run& run, uint32_t* second,
                      uint32_t* exceptions) {
  __shared__ uint8_t codes[256];
  make_codes(codes, run);
  const uint32_t lane = lane_number();
  for (uint64_t tile = warp_number(); tile < run.tiles; tile += warp_count()) {
    uint32_t counts = 0;  // of exceptions from bit 16
#pragma unroll 4
    for (uint32_t number = 0; number < lane_words; ++number) {
      const uint32_t code =
          codes[exponent_of(shape_of(W), word_at<W>(block, run, tile, lane, number))];
      counts += code == no_code ? 1U << 16 : code >= second_from;
    }
    for (uint32_t step = 16; step > 0; step /= 2)
      counts += __shfl_xor_sync(all_lanes, counts, step);
    if (lane != 0) continue;
    second[tile] = counts & 0xffff;
    exceptions[tile] = counts >> 16;
  }
}

template <Words W>
__device__ void pack(const uint8_t* block, const Run& run, uint8_t* packed) {
  constexpr Shape shape = shape_of(W);
  __shared__ uint8_t table[256];
  make_codes(table, run);
  const uint32_t lane = lane_number();
  for (uint64_t tile = warp_number(); tile < run.tiles; tile += warp_count()) {
    uint64_t codes = 0;
    uint32_t low[3] = {};
    uint64_t second[2] = {};
    uint32_t escapes = 0;
    uint32_t exceptional = 0;  // a bit by word
#pragma unroll 2
    for (uint32_t number = 0; number < lane_words; ++number) {
      const uint32_t word = word_at<W>(block, run, tile, lane, number);
      const uint32_t code = table[exponent_of(shape, word)];
      packed[run.first + tile * tile_words + first_in_tile(lane, number)] =
          first_byte_of(shape, word);
      if (code == no_code) {
        exceptional |= 1U << number;
      } else if (code < second_from) {
        codes |= uint64_t{code} << (2 * number);
      } else {
        codes |= uint64_t{escape} << (2 * number);
        const uint64_t bits = code - second_from;
        const uint32_t bit = 3 * escapes++;
        if (bit < 64) second[0] |= bits << bit;
        if (bit > 61) second[1] |= bit < 64 ? bits >> (64 - bit) : bits << (bit - 64);
      }
      if (shape.low_bits == 3) {
        const uint32_t bits = low_of(shape, word);
        for (uint32_t i = 0; i < 3; ++i) {
          if (number < 30 && number / 10 == i)
            low[i] |= bits << (number / 2 % 5 * 3 + number % 2 * 16);
          if (number >= 30) low[i] |= (bits >> i & 1) << (15 + number % 2 * 16);
        }
      }
      if (shape.low_bits == 16) {
        *reinterpret_cast<uint16_t*>(packed + run.low + tile * (2 * tile_words) +
                                     low_in_tile(lane, number)) = low_of(shape, word);
      }
    }
    const uint32_t escapes_before = scan(escapes, lane) - escapes;
    const uint32_t exceptions = __popc(exceptional);
    const uint32_t exceptions_before = scan(exceptions, lane) - exceptions;
    reinterpret_cast<uint64_t*>(packed + run.codes)[tile * warp_lanes + lane] = codes;
    if (shape.low_bits == 3) {
      auto* bits = reinterpret_cast<uint32_t*>(packed + run.low) + tile * 3 * warp_lanes;
      for (uint32_t i = 0; i < 3; ++i) bits[i * warp_lanes + lane] = low[i];
    }
    const Counted here = before(packed, run, tile);
    const uint64_t bit = 3 * uint64_t{here.second + escapes_before};
    auto* to = reinterpret_cast<uint32_t*>(packed + run.second) + bit / 32;
    const uint32_t shift = bit % 32;
    const auto part = [&](uint32_t i) {
      return static_cast<uint32_t>(second[i / 2] >> (i % 2 * 32));
    };
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t bits = __funnelshift_l(i > 0 ? part(i - 1) : 0, i < 3 ? part(i) : 0, shift);
      if (bits != 0) atomicOr(to + i, bits);
    }
    auto* list =
        reinterpret_cast<uint32_t*>(packed + run.exceptions) + here.exceptions + exceptions_before;
    for (; exceptional != 0; exceptional &= exceptional - 1) {
      const uint32_t number = __ffs(exceptional) - 1;
      const uint32_t word = word_at<W>(block, run, tile, lane, number);
      *list++ = word_in_tile(shape, lane, number) | exponent_of(shape, word) << 16;
    }
  }
}

/// Where the second codes and exceptions of each tile begin, in one thread block.
__device__ void place(const Run& run, const uint32_t* second, const uint32_t* exceptions,
                      uint8_t* packed, uint64_t* totals) {
  __shared__ uint32_t sums[2][warp_lanes];
  __shared__ uint32_t group[2][1024 / group_tiles];
  auto* places = reinterpret_cast<uint32_t*>(packed + run.places);
  auto* bases = reinterpret_cast<uint2*>(packed + run.bases);
  const uint32_t lane = lane_number();
  const uint32_t warp = threadIdx.x / warp_lanes;
  uint32_t before[2] = {};
  for (uint64_t from = 0; from <= run.tiles; from += blockDim.x) {
    const uint64_t tile = from + threadIdx.x;
    const uint32_t mine[2] = {tile < run.tiles ? second[tile] : 0,
                              tile < run.tiles ? exceptions[tile] : 0};
    uint32_t up_to[2];
    for (uint32_t i = 0; i < 2; ++i) {
      up_to[i] = scan(mine[i], lane);
      if (lane == warp_lanes - 1) sums[i][warp] = up_to[i];
    }
    __syncthreads();
    if (warp < 2) {
      const uint32_t sum = lane < blockDim.x / warp_lanes ? sums[warp][lane] : 0;
      sums[warp][lane] = scan(sum, lane);
    }
    __syncthreads();
    uint32_t here[2];
    for (uint32_t i = 0; i < 2; ++i) {
      here[i] = before[i] + up_to[i] - mine[i] + (warp > 0 ? sums[i][warp - 1] : 0);
      if (threadIdx.x % group_tiles == 0) group[i][threadIdx.x / group_tiles] = here[i];
      before[i] += sums[i][blockDim.x / warp_lanes - 1];
    }
    __syncthreads();
    const uint32_t base[2] = {group[0][threadIdx.x / group_tiles],
                              group[1][threadIdx.x / group_tiles]};
    if (tile <= run.tiles) {
      places[tile] = (here[0] - base[0]) | (here[1] - base[1]) << 16;
      if (tile % group_tiles == 0) bases[tile / group_tiles] = make_uint2(base[0], base[1]);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    totals[0] = before[0];
    totals[1] = before[1];
  }
}

__device__ void add_up(uint64_t value, uint64_t* sum) {
  for (uint32_t step = 16; step > 0; step /= 2) value += __shfl_xor_sync(all_lanes, value, step);
  if (lane_number() == 0 && value != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
  }
}

}  // namespace

}  // namespace vramx
