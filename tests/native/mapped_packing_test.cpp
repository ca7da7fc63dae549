// Packed copies in mapped memory: frames that stay mapped, and what is refused meanwhile.
#include <cuda.h>

#include "base/error.hpp"
#include "check.hpp"
#include "device/mapped.hpp"
#include "loopback.h"
#include "packed.hpp"

using namespace vramx;
using namespace rig;

namespace {

std::uint64_t mappings() { return loopback_calls("cuMemMap") + loopback_calls("cuMemUnmap"); }

/// One pass over all units, of which `room` are on the card at a time.
void pass(const Weights& weights, Bytes room, bool check) {
  const Bytes count = weights.range.size / weights.size;
  const Flat& device = weights.device;
  for (Bytes i = 0; i < count; ++i) {
    const Range coming = weights.unit(i);
    device.wait(weights.packing.link().fetch(coming, FetchMode::duplicate, i % 2, {}));
    if (check) REQUIRE(reads(weights, coming, weights.bytes.data() + i * weights.size));
    if (i + 1 < room) continue;
    device.wait(device.evict(weights.unit(i + 1 - room), EvictMode::drop, 0, {}));
  }
  for (Bytes i = count - room + 1; i < count; ++i) {
    device.wait(device.evict(weights.unit(i), EvictMode::drop, 0, {}));
  }
}

}  // namespace

TEST("a steady cycle maps and unmaps nothing, however many frames there are") {
  for (const Bytes count : {3, 5, 8}) {
    for (const Bytes room : {Bytes{1}, Bytes{2}, count - 1}) {
      const auto rig = mapped();
      {
        const Weights weights(*rig, count);
        weights.pack();
        for (int passes = 0; passes < 4; ++passes) pass(weights, room, true);
        const auto before = mappings();
        for (int passes = 0; passes < 3; ++passes) pass(weights, room, true);
        if (mappings() != before) {
          throw check::Failed(std::to_string(count) + " in " + std::to_string(room) +
                              " frames: " + std::to_string(mappings() - before) + " calls");
        }
      }
      REQUIRE(rig->close().empty());
    }
  }
}

TEST("frames and staging memory take no more than what was used at one time, and staging") {
  const auto rig = mapped();
  {
    const Weights weights(*rig, 6);
    weights.pack();
    const Bytes most = 2 * weights.size + weights.packing.staging();
    (*rig->device()).memory(Purpose::weights).trim(0);
    for (int passes = 0; passes < 3; ++passes) {
      pass(weights, 2, false);
      REQUIRE(rig->on_card() <= most);
    }
    weights.packing.trim();
    (*rig->device()).memory(Purpose::weights).trim(0);
    REQUIRE(rig->on_card() == 0);
    pass(weights, 2, true);
  }
  REQUIRE(rig->close().empty());
}

TEST("what is refused while weights are packed is told, and they still come raw") {
  for (const char* entry : {"cuModuleLoadData", "cuLaunchKernel", "cuMemMap", "cuMemSetAccess",
                            "cuMemCreate", "cuMemHostRegister_v2", "cuMemcpyHtoDAsync_v2"}) {
    const auto rig = mapped();
    {
      const Weights weights(*rig, 2);
      const Bytes before = rig->on_card();
      loopback_fail(entry, 1, CUDA_ERROR_UNKNOWN);
      bool told = false;
      try {
        weights.pack();
      } catch (const DeviceFailure&) {
        told = true;
      }
      loopback_fail(entry, 0, CUDA_SUCCESS);
      if (!told) throw check::Failed(std::string("packed without ") + entry);
      REQUIRE(rig->on_card() == before && weights.packing.staging() == 0);
      fetched(weights, FetchMode::duplicate);
      REQUIRE(reads(weights, weights.bytes));
      evicted(weights, EvictMode::drop);
      weights.pack();
      weights.fetched(weights.packing.link());
      REQUIRE(reads(weights, weights.bytes));
    }
    if (const auto held = rig->close(); !held.empty()) throw check::Failed(entry + (": " + held));
  }
}

TEST("what is refused while packed weights arrive is told, and they arrive when asked again") {
  const auto rig = mapped();
  {
    const Weights weights(*rig, 1);
    weights.pack();
    const auto refused = [&](Route& way, const char* entry, std::uint64_t nth) {
      loopback_fail(entry, nth, CUDA_ERROR_UNKNOWN);
      REQUIRE_THROWS(DeviceFailure, weights.fetched(way));
      loopback_fail(entry, 0, CUDA_SUCCESS);
    };
    Packing& packing = weights.packing;
    for (std::uint64_t nth = 1; nth <= 3; ++nth) refused(packing.link(), "cuLaunchKernel", nth);
    for (std::uint64_t nth = 1; nth <= 2; ++nth) refused(packing.hold(), "cuLaunchKernel", nth);
    refused(packing.link(), "cuMemsetD32Async", 1);
    refused(packing.hold(), "cuMemsetD32Async", 1);
    weights.fetched(packing.hold());
    refused(packing.unpack(), "cuLaunchKernel", 1);
    weights.fetched(packing.unpack());
    REQUIRE(reads(weights, weights.bytes));
    weights.evicted(packing.unpack());
    weights.fetched(packing.link());
    REQUIRE(reads(weights, weights.bytes) && packing.damaged().empty());
  }
  REQUIRE(rig->close().empty());
}

TEST("where nothing can be pinned there are no packed copies, and weights come raw") {
  const auto rig = mapped(2 * MiB, HostMemory::pageable);
  {
    const Weights weights(*rig, 1);
    REQUIRE_THROWS(OutOfMemory, weights.pack());
    REQUIRE(weights.packing.staging() == 0);
    fetched(weights, FetchMode::duplicate);
    REQUIRE(reads(weights, weights.bytes));
  }
  REQUIRE(rig->close().empty());
}
