// The card's side of the lossless form: a warp for each tile.
//
// Compiled to PTX as the library is built, and by the driver for the card at hand. What the parts
// of a run are is told in layout.hpp.
#include "forms/layout.hpp"

namespace vramx {

namespace {

constexpr uint32_t warps = 8;  // a thread block
constexpr uint32_t all_lanes = ~0U;
/// In a table by exponent: no code, or 8 and the second code.
constexpr uint32_t no_code = 255;
constexpr uint32_t second_from = 8;
/// The histogram of exponents is over one of so many pieces; a run is coded exactly by any tables.
constexpr uint64_t surveyed = 8;

__device__ uint32_t lane_number() { return threadIdx.x & (warp_lanes - 1); }
__device__ uint64_t warp_number() {
  return blockIdx.x * uint64_t{warps} + threadIdx.x / warp_lanes;
}
__device__ uint64_t warp_count() { return gridDim.x * uint64_t{warps}; }

/// The sum over this lane and those below it.
__device__ uint32_t scan(uint32_t value, uint32_t lane) {
#pragma unroll
  for (uint32_t step = 1; step < warp_lanes; step *= 2) {
    const uint32_t below = __shfl_up_sync(all_lanes, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

__device__ uint32_t choose(uint32_t mask, uint32_t where_set, uint32_t elsewhere) {
  return (where_set & mask) | (elsewhere & ~mask);
}

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

struct Counted {
  uint32_t second, exceptions;
};
/// What there is before a tile.
__device__ Counted before(const uint8_t* packed, const Run& run, uint64_t tile) {
  const auto place = __ldg(reinterpret_cast<const uint32_t*>(packed + run.places) + tile);
  const auto base = __ldg(reinterpret_cast<const uint2*>(packed + run.bases) + tile / group_tiles);
  return {base.x + (place & 0xffff), base.y + (place >> 16)};
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
  uint32_t queue[2][2];
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t bit = 3 * (half == 0 ? from : from + escapes0);
    const uint32_t* at = second + bit / 32;
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
  for (uint32_t i = here.exceptions + lane; i < after.exceptions; i += warp_lanes) {
    const uint32_t exception = exceptions[i];
    const uint32_t number = exception & 0xffff;
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

using vramx::Run;
using vramx::Words;

#define VRAMX_KERNELS_OF_TYPE(name, Word, exponent_at, exponent_bits)                            \
  extern "C" __global__ void vramx_survey_##name(const void* words, uint64_t count,              \
                                                 uint32_t* exponents, uint32_t* low) {           \
    vramx::survey(static_cast<const Word*>(words), count, exponent_at, exponent_bits, exponents, \
                  low);                                                                          \
  }

#define VRAMX_KERNELS_OF_WORDS(name)                                                              \
  extern "C" __global__ void __launch_bounds__(256)                                               \
      vramx_count_##name(const uint8_t* block, Run run, uint32_t* second, uint32_t* exceptions) { \
    vramx::count<Words::name>(block, run, second, exceptions);                                    \
  }                                                                                               \
  extern "C" __global__ void __launch_bounds__(256)                                               \
      vramx_pack_##name(const uint8_t* block, Run run, uint8_t* packed) {                         \
    vramx::pack<Words::name>(block, run, packed);                                                 \
  }                                                                                               \
  extern "C" __global__ void __launch_bounds__(256)                                               \
      vramx_unpack_##name(const uint8_t* packed, uint8_t* block, Run run) {                       \
    vramx::unpack<Words::name>(packed, block, run);                                               \
  }

VRAMX_KERNELS_OF_TYPE(bf16, uint16_t, 7, 8)
VRAMX_KERNELS_OF_TYPE(fp16, uint16_t, 10, 5)
VRAMX_KERNELS_OF_TYPE(fp32, uint32_t, 23, 8)
VRAMX_KERNELS_OF_WORDS(bf16)
VRAMX_KERNELS_OF_WORDS(fp16)
VRAMX_KERNELS_OF_WORDS(fp16_7)
VRAMX_KERNELS_OF_WORDS(fp32)
VRAMX_KERNELS_OF_WORDS(fp32_10)
VRAMX_KERNELS_OF_WORDS(fp32_7)

extern "C" __global__ void __launch_bounds__(1024)
    vramx_place(Run run, const uint32_t* second, const uint32_t* exceptions, uint8_t* packed,
                uint64_t* totals) {
  vramx::place(run, second, exceptions, packed, totals);
}

/// How many pieces of 16 bytes differ; `size` bytes at multiples of 16, the last piece shorter.
extern "C" __global__ void vramx_compare(const uint8_t* a, const uint8_t* b, uint64_t size,
                                         uint64_t* differing) {
  uint64_t bad = 0;
  for (uint64_t at = (blockIdx.x * uint64_t{blockDim.x} + threadIdx.x) * 16; at < size;
       at += gridDim.x * uint64_t{blockDim.x} * 16) {
    bool same = true;
    if (at + 16 <= size) {
      const uint4 x = __ldcs(reinterpret_cast<const uint4*>(a + at));
      const uint4 y = __ldcs(reinterpret_cast<const uint4*>(b + at));
      same = x.x == y.x && x.y == y.y && x.z == y.z && x.w == y.w;
    } else {
      for (uint64_t i = at; i < size; ++i) same = same && a[i] == b[i];
    }
    if (!same) ++bad;
  }
  vramx::add_up(bad, differing);
}

/// Adds each word of 32 bits times an odd number of its own: any one that changes is seen.
extern "C" __global__ void vramx_digest(const uint8_t* packed, uint64_t size, uint64_t* sum) {
  uint64_t mine = 0;
  for (uint64_t at = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; at < size / 4;
       at += gridDim.x * uint64_t{blockDim.x}) {
    mine += uint64_t{reinterpret_cast<const uint32_t*>(packed)[at]} * (2 * at + 1) *
            0x9e3779b97f4a7c15ULL;
  }
  vramx::add_up(mine, sum);
}
