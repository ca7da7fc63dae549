// What the kernels share: lanes, warps, and where a tile's parts begin.
#pragma once

#include "forms/layout.hpp"

namespace vramx {

namespace {

constexpr uint32_t warps = 8;  // a thread block
constexpr uint32_t all_lanes = ~0U;

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

struct Counted {
  uint32_t second, exceptions;
};
/// What there is before a tile.
__device__ Counted before(const uint8_t* packed, const Run& run, uint64_t tile) {
  const auto place = __ldg(reinterpret_cast<const uint32_t*>(packed + run.places) + tile);
  const auto base = __ldg(reinterpret_cast<const uint2*>(packed + run.bases) + tile / group_tiles);
  return {base.x + (place & 0xffff), base.y + (place >> 16)};
}

}  // namespace

}  // namespace vramx
