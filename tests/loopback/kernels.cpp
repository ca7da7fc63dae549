#include "kernels.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.hpp"
#include "forms/host_codec.hpp"

namespace loopback {

namespace {

using vramx::Run;
using vramx::Type;
using Byte = std::uint8_t;

template <class Value>
Value at(void** arguments, unsigned index) {
  return *static_cast<Value*>(arguments[index]);
}

Bytes named(const void* start, std::uint64_t size) {
  return {reinterpret_cast<std::uintptr_t>(start), size};
}

template <Type type>
Launch survey(void** arguments) {
  const auto* words = at<const void*>(arguments, 0);
  const std::uint64_t size =
      at<std::uint64_t>(arguments, 1) * vramx::shape_of(vramx::all_bits(type)).bytes;
  auto* exponents = at<std::uint32_t*>(arguments, 2);
  auto* low = at<std::uint32_t*>(arguments, 3);
  return {[=] {
            const vramx::Survey found = vramx::survey(type, words, size);
            for (std::size_t i = 0; i < found.exponents.size(); ++i) {
              exponents[i] += found.exponents[i];
            }
            *low |= found.low;
          },
          {named(words, size), named(exponents, 1024), named(low, 4)}};
}

Launch count(void** arguments) {
  const auto* block = at<const Byte*>(arguments, 0);
  const Run run = at<Run>(arguments, 1);
  auto* second = at<std::uint32_t*>(arguments, 2);
  auto* exceptions = at<std::uint32_t*>(arguments, 3);
  return {[=] {
            const std::uint64_t bytes = vramx::tile_words * vramx::shape_of(run.words).bytes;
            for (std::uint32_t tile = 0; tile < run.tiles; ++tile) {
              Run one = run;
              one.at += tile * bytes;
              one.size = std::min(bytes, run.size - tile * bytes);
              const vramx::Escapes escapes = vramx::count(one, block);
              second[tile] = static_cast<std::uint32_t>(escapes.second);
              exceptions[tile] = static_cast<std::uint32_t>(escapes.exceptions);
            }
          },
          {named(block + run.at, run.size), named(second, run.tiles * 4),
           named(exceptions, run.tiles * 4)}};
}

Launch place(void** arguments) {
  const Run run = at<Run>(arguments, 0);
  const auto* second = at<const std::uint32_t*>(arguments, 1);
  const auto* exceptions = at<const std::uint32_t*>(arguments, 2);
  auto* packed = at<Byte*>(arguments, 3);
  auto* totals = at<std::uint64_t*>(arguments, 4);
  return {[=] {
            auto* places = reinterpret_cast<vramx::Place2*>(packed + run.places);
            auto* bases = reinterpret_cast<vramx::Base2*>(packed + run.bases);
            vramx::Base2 before{};
            vramx::Base2 base{};
            for (std::uint32_t tile = 0; tile <= run.tiles; ++tile) {
              if (tile % vramx::group_tiles == 0) {
                bases[tile / vramx::group_tiles] = base = before;
              }
              places[tile] = {static_cast<std::uint16_t>(before.second - base.second),
                              static_cast<std::uint16_t>(before.exceptions - base.exceptions)};
              if (tile == run.tiles) break;
              before.second += second[tile];
              before.exceptions += exceptions[tile];
            }
            totals[0] = before.second;
            totals[1] = before.exceptions;
          },
          {named(second, run.tiles * 4), named(exceptions, run.tiles * 4),
           named(packed + run.places, run.bases - run.places), named(totals, 16)}};
}

// What the processor's codec refuses to read or write, the card's would too, without a word.
template <class Work>
void or_nothing(const Work& work) {
  try {
    work();
  } catch (const vramx::Corrupted&) {
  }
}

Launch pack(void** arguments) {
  const auto* block = at<const Byte*>(arguments, 0);
  const Run run = at<Run>(arguments, 1);
  auto* packed = at<Byte*>(arguments, 2);
  return {[=] { or_nothing([&] { vramx::pack(run, block, packed); }); },
          {named(block + run.at, run.size), named(packed + run.first, run.end - run.first)}};
}

Launch unpack(void** arguments) {
  const auto* packed = at<const Byte*>(arguments, 0);
  auto* block = at<Byte*>(arguments, 1);
  const Run run = at<Run>(arguments, 2);
  return {[=] { or_nothing([&] { vramx::unpack(run, packed, block); }); },
          {named(block + run.at, run.size), named(packed + run.first, run.end - run.first)}};
}

Launch compare(void** arguments) {
  const auto* a = at<const Byte*>(arguments, 0);
  const auto* b = at<const Byte*>(arguments, 1);
  const auto size = at<std::uint64_t>(arguments, 2);
  auto* differing = at<std::uint64_t*>(arguments, 3);
  return {[=] {
            for (std::uint64_t from = 0; from < size; from += 16) {
              const std::uint64_t piece = std::min<std::uint64_t>(16, size - from);
              if (std::memcmp(a + from, b + from, piece) != 0) ++*differing;
            }
          },
          {named(a, size), named(b, size), named(differing, 8)}};
}

Launch digest(void** arguments) {
  const auto* packed = at<const Byte*>(arguments, 0);
  const auto size = at<std::uint64_t>(arguments, 1);
  auto* sum = at<std::uint64_t*>(arguments, 2);
  return {[=] { *sum += vramx::digest(packed, size); }, {named(packed, size), named(sum, 8)}};
}

Launch verify(void** arguments) {
  const auto* sum = at<const std::uint64_t*>(arguments, 0);
  const auto made = at<std::uint64_t>(arguments, 1);
  auto* damaged = at<std::uint32_t*>(arguments, 2);
  auto* any = at<std::uint32_t*>(arguments, 3);
  return {[=] {
            if (*sum == made) return;
            std::atomic_ref<std::uint32_t>{*damaged}.store(1);
            std::atomic_ref<std::uint32_t>{*any}.store(1);
          },
          {named(sum, 8)},
          {named(damaged, 4), named(any, 4)}};
}

std::vector<Kernel> all_kernels() {
  std::vector<Kernel> all{{"vramx_survey_bf16", 256, false, survey<Type::bf16>},
                          {"vramx_survey_fp16", 256, false, survey<Type::fp16>},
                          {"vramx_survey_fp32", 256, false, survey<Type::fp32>},
                          {"vramx_place", 1024, true, place},
                          {"vramx_compare", 256, false, compare},
                          {"vramx_digest", 256, false, digest},
                          {"vramx_verify", 32, true, verify}};
  for (const char* words : {"bf16", "fp16", "fp16_7", "fp32", "fp32_10", "fp32_7"}) {
    all.push_back({std::string("vramx_count_") + words, 256, false, count});
    all.push_back({std::string("vramx_pack_") + words, 256, false, pack});
    all.push_back({std::string("vramx_unpack_") + words, 256, false, unpack});
  }
  return all;
}

}  // namespace

const Kernel* find_kernel(const std::string& name) {
  static const std::vector<Kernel> kernels = all_kernels();
  const auto it = std::find_if(kernels.begin(), kernels.end(),
                               [&](const Kernel& kernel) { return kernel.name == name; });
  return it == kernels.end() ? nullptr : &*it;
}

}  // namespace loopback
