// Packing and unpacking on the stand-in card.
#include "device/card_codec.hpp"

#include <bit>
#include <cstring>
#include <random>

#include "base/error.hpp"
#include "check.hpp"
#include "device/physical.hpp"
#include "forms/host_codec.hpp"
#include "forms/packing_kernels.hpp"
#include "loopback.h"

using namespace vramx;

namespace {

/// The card's memory, which the stand-in has at the same addresses as the test.
class OnCard {
 public:
  OnCard(std::shared_ptr<CudaContext> context, Bytes size)
      : context_(std::move(context)),
        here_(context_->current()),
        addresses_(context_->driver, round_up(size, 2 * MiB), 2 * MiB),
        range_(addresses_.range()) {
    const CUmemAllocationProp place = on_card(context_->device);
    const CUmemAccessDesc access{.location = place.location,
                                 .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const Driver& cuda = *context_->driver;
    cuda.check(cuda.create_memory(&memory_, range_.size, &place, 0), "cuMemCreate");
    cuda.check(cuda.map(range_.start, range_.size, 0, memory_, 0), "cuMemMap");
    cuda.check(cuda.set_access(range_.start, range_.size, &access, 1), "cuMemSetAccess");
  }
  ~OnCard() {
    context_->driver->unmap(range_.start, range_.size);
    context_->driver->release_memory(memory_);
  }
  OnCard(const OnCard&) = delete;
  OnCard& operator=(const OnCard&) = delete;

  Range of(Bytes size) const { return {range_.start, size}; }
  Address start() const { return range_.start; }
  void* data() const { return range_.data(); }

 private:
  std::shared_ptr<CudaContext> context_;
  Current here_;
  Addresses addresses_;
  Range range_;
  Handle memory_ = 0;
};

constexpr Bytes part = 256 * KiB;
constexpr Bytes block_size = 6 * part + 24;  // the last bytes are no whole 16

std::uint32_t normal(std::mt19937& random) {
  std::normal_distribution<float> weights(0, 0.02F);
  return std::bit_cast<std::uint32_t>(weights(random));
}

/// A block with a run of each kind: bf16, fp32, noise that does not shrink, fp32 that was bf16,
/// bytes of no type, and fp16 of which every exponent is exceptional somewhere.
std::vector<TypedRange> fill(void* data) {
  std::mt19937 random(7);
  auto* const bytes = static_cast<std::byte*>(data);
  const auto put = [&](Bytes from, auto zero, const auto& word) {
    for (Bytes at = from; at < from + part; at += sizeof(zero)) {
      const auto value = static_cast<decltype(zero)>(word());
      std::memcpy(bytes + at, &value, sizeof(value));
    }
  };
  put(0, std::uint16_t{}, [&] { return normal(random) >> 16; });
  put(part, std::uint32_t{}, [&] { return normal(random); });
  put(2 * part, std::uint16_t{}, [&] { return random(); });
  put(3 * part, std::uint32_t{}, [&] { return normal(random) & 0xffff0000; });
  put(4 * part, std::uint32_t{}, [&] { return random(); });
  put(5 * part, std::uint16_t{},
      [&] { return random() % 50 == 0 ? random() : 0x2c00 + random() % 3072; });
  std::memset(bytes + 6 * part, 0x5a, 24);
  return {{0, part, Type::bf16},        {part, part, Type::fp32}, {2 * part, part, Type::bf16},
          {3 * part, part, Type::fp32}, {4 * part, part, {}},     {5 * part, part, Type::fp16}};
}

struct Bench {
  CudaCard card{LOOPBACK_PATH, 0};
  CudaLanes lanes{card.context(), 1};
  OnCard block{card.context(), block_size};
  OnCard packed{card.context(), block_size};
  OnCard scratch{card.context(), CardCodec::scratch_bytes(block_size)};
  std::vector<TypedRange> ranges = fill(block.data());
  std::vector<std::byte> content{static_cast<std::byte*>(block.data()),
                                 static_cast<std::byte*>(block.data()) + block_size};
  Stream stream = reinterpret_cast<Stream>(lanes.at(0));

  PackedBlock pack(CardCodec& codec) {
    return codec.pack(block.of(block_size), ranges, packed.of(2 * MiB), scratch.of(2 * MiB),
                      stream);
  }
  bool restored() const { return std::memcmp(block.data(), content.data(), block_size) == 0; }
};

std::uint64_t modules() {
  LoopbackCounts counts{};
  loopback_counts(&counts);
  return counts.live_modules;
}

void fail(const char* entry, std::uint64_t nth = 1) {
  loopback_fail(entry, nth, CUDA_ERROR_UNKNOWN);
}

}  // namespace

TEST("the card packs a block to the bytes that the processor packs it to") {
  Bench bench;
  CardCodec codec(bench.card.context());
  const PackedBlock made = bench.pack(codec);
  std::vector<std::byte> bytes;
  const PackedBlock expected = pack(bench.content.data(), block_size, bench.ranges, bytes);
  const std::vector<Words> kinds{Words::bf16, Words::fp32, Words::raw, Words::fp32_7,
                                 Words::raw,  Words::fp16, Words::raw};
  REQUIRE(made.runs.size() == kinds.size());
  for (std::size_t i = 0; i < kinds.size(); ++i) REQUIRE(made.runs[i].words == kinds[i]);
  REQUIRE(made.size == expected.size && made.digest == expected.digest);
  REQUIRE(std::memcmp(bench.packed.data(), bytes.data(), made.size) == 0);
}

TEST("a packed block is unpacked to its bytes, in the stream's order") {
  Bench bench;
  CardCodec codec(bench.card.context());
  const PackedBlock made = bench.pack(codec);
  std::memset(bench.block.data(), 0, block_size);
  loopback_hold(bench.stream);
  codec.unpack(made.runs, bench.packed.start(), bench.block.start(), bench.stream);
  REQUIRE(!bench.restored());
  loopback_let_go(bench.stream);
  loopback_finish(bench.stream);
  REQUIRE(bench.restored());
}

TEST("a block that is written while it is packed is not believed") {
  Bench bench;
  CardCodec codec(bench.card.context());
  REQUIRE_THROWS(Corrupted,
                 codec.pack(bench.block.of(block_size), bench.ranges, bench.block.of(block_size),
                            bench.scratch.of(2 * MiB), bench.stream));
}

TEST("too little memory is refused before anything is written to it") {
  Bench bench;
  CardCodec codec(bench.card.context());
  const Range block = bench.block.of(block_size);
  const Bytes needed = CardCodec::scratch_bytes(block_size);
  const Bytes packed = bench.pack(codec).size;
  const auto fills = loopback_calls("cuMemsetD32Async");
  REQUIRE_THROWS(BadConfig, codec.pack(block, bench.ranges, bench.packed.of(packed),
                                       bench.scratch.of(needed - 1), bench.stream));
  REQUIRE(loopback_calls("cuMemsetD32Async") == fills);
  std::memset(bench.packed.data(), 1, packed);
  REQUIRE_THROWS(BadConfig, codec.pack(block, bench.ranges, bench.packed.of(packed - 1),
                                       bench.scratch.of(needed), bench.stream));
  const std::vector<std::byte> untouched(packed, std::byte{1});
  REQUIRE(std::memcmp(bench.packed.data(), untouched.data(), packed) == 0);
  codec.pack(block, bench.ranges, bench.packed.of(packed), bench.scratch.of(needed), bench.stream);
}

TEST("kernels that the driver refuses leave nothing loaded") {
  const CudaCard card(LOOPBACK_PATH, 0);
  for (const char* entry : {"cuModuleLoadData", "cuModuleGetFunction"}) {
    fail(entry);
    REQUIRE_THROWS(DeviceFailure, CardCodec(card.context()));
    REQUIRE(modules() == 0);
  }
  {
    const CardCodec codec(card.context());
    REQUIRE(modules() == 1);
  }
  REQUIRE(modules() == 0);
}

TEST("a refused launch, copy or fill is told, and the next packing is whole") {
  Bench bench;
  CardCodec codec(bench.card.context());
  for (const char* entry : {"cuLaunchKernel", "cuMemcpyDtoDAsync_v2", "cuMemsetD32Async",
                            "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"}) {
    const auto before = loopback_calls(entry);
    const PackedBlock made = bench.pack(codec);
    const auto calls = loopback_calls(entry) - before;
    REQUIRE(calls > 0);
    for (std::uint64_t nth = 1; nth <= calls; ++nth) {
      fail(entry, nth);
      REQUIRE_THROWS(DeviceFailure, bench.pack(codec));
      REQUIRE(bench.pack(codec).digest == made.digest && bench.restored());
    }
  }
}
