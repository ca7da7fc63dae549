// The card's side of the lossless form: a warp for each tile.
//
// Compiled to PTX as the library is built, and by the driver for the card at hand. What the parts
// of a run are is told in layout.hpp.
#include "forms/packing.cuh"
#include "forms/unpacking.cuh"

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

/// Adds each word of 32 bits times an odd number of its own: any one that changes is seen. `size`
/// bytes at multiples of 16.
extern "C" __global__ void vramx_digest(const uint8_t* packed, uint64_t size, uint64_t* sum) {
  uint64_t mine = 0;
  for (uint64_t at = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; at < size / 16;
       at += gridDim.x * uint64_t{blockDim.x}) {
    const uint4 four = __ldg(reinterpret_cast<const uint4*>(packed) + at);
    mine += vramx::digest_term(4 * at, four.x) + vramx::digest_term(4 * at + 1, four.y) +
            vramx::digest_term(4 * at + 2, four.z) + vramx::digest_term(4 * at + 3, four.w);
  }
  vramx::add_up(mine, sum);
}

/// Sets both words, which lie in the host's memory, where a digest is not as it was made. By one
/// thread; `any` last, so that who finds it set finds the other set too.
extern "C" __global__ void vramx_verify(const uint64_t* sum, uint64_t made, uint32_t* damaged,
                                        uint32_t* any) {
  if (blockIdx.x != 0 || threadIdx.x != 0 || *sum == made) return;
  *static_cast<volatile uint32_t*>(damaged) = 1;
  __threadfence_system();
  *static_cast<volatile uint32_t*>(any) = 1;
  __threadfence_system();
}
