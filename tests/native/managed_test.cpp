// What is particular to managed memory and its driver.
#include "device/managed.hpp"

#include <cuda.h>

#include <atomic>
#include <thread>

#include "base/error.hpp"
#include "check.hpp"
#include "device/cuda_device.hpp"
#include "loopback.h"
#include "rig.hpp"

using namespace vramx;

namespace {

LoopbackCounts counts() {
  LoopbackCounts now{};
  loopback_counts(&now);
  return now;
}

Range reserved(const rig::Flat& device, Bytes granules, Purpose purpose = Purpose::weights) {
  return device.reserve(granules * device.traits().granule, purpose);
}

template <class Act>
std::string told(const Act& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST("an error of the driver is told with the call and the driver's words") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const auto reserve_failing = [&](int result) {
    loopback_fail("cuMemAllocManaged", 1, result);
    return told([&] { reserved(device, 1); });
  };
  const std::string known = reserve_failing(CUDA_ERROR_ILLEGAL_ADDRESS);
  REQUIRE(says(known, "cuMemAllocManaged") && says(known, "CUDA_ERROR_ILLEGAL_ADDRESS"));
  // The driver names nothing that is newer than itself.
  REQUIRE(says(reserve_failing(998), "cuMemAllocManaged"));
  loopback_fail("cuMemAllocManaged", 1, CUDA_ERROR_OUT_OF_MEMORY);
  REQUIRE_THROWS(OutOfMemory, reserved(device, 1));
}

TEST("a device that cannot be opened leaves nothing of itself") {
  open_managed(LOOPBACK_PATH, 0);  // the driver is open from here on
  const LoopbackCounts before = counts();
  const std::pair<const char*, std::uint64_t> faults[] = {
      {"cuDeviceGetCount", 1},     {"cuDeviceGet", 1},         {"cuDeviceGetName", 1},
      {"cuDeviceGetAttribute", 1}, {"cuDeviceTotalMem_v2", 1}, {"cuDevicePrimaryCtxRetain", 1},
      {"cuCtxGetCurrent", 1},      {"cuCtxPushCurrent_v2", 1}, {"cuStreamCreate", 1},
      {"cuStreamCreate", 2},
  };
  for (const auto& [entry, nth] : faults) {
    loopback_fail(entry, nth, CUDA_ERROR_UNKNOWN);
    REQUIRE_THROWS(DeviceFailure, open_managed(LOOPBACK_PATH, 0));
    const LoopbackCounts after = counts();
    if (after.live_contexts != before.live_contexts || after.live_streams != before.live_streams) {
      throw check::Failed(std::string("something is left after a failed ") + entry);
    }
  }
  REQUIRE_THROWS(NoDevice, open_managed(LOOPBACK_PATH, 7));
  REQUIRE_THROWS(NoDevice, open_managed(LOOPBACK_PATH, -1));
}

TEST("a fence may outlive its device") {
  const LoopbackCounts before = counts();
  Fence fence;
  {
    const rig::Flat device(open_managed(LOOPBACK_PATH, 0));
    fence = device.mark(0);
  }
  REQUIRE(counts().live_contexts == before.live_contexts + 1);
  fence.reset();
  REQUIRE(counts().live_contexts == before.live_contexts);
  REQUIRE(counts().live_events == before.live_events);
}

TEST("bytes cross the link from a context of their own, made when the first ones do") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const std::uint64_t before = counts().live_contexts;
  const Range scratch = reserved(device, 1, Purpose::scratch);
  device.wait(device.fetch(scratch, FetchMode::empty, 0, {}));
  device.evict(scratch, EvictMode::discard, 0, {});
  REQUIRE(counts().live_contexts == before);
  const Range weights = reserved(device, 1);
  device.map_host(weights);
  device.unmap_host(weights);
  REQUIRE(counts().live_contexts == before);
  for (int pass = 0; pass < 2; ++pass) {
    const Fence arrival = device.fetch(weights, FetchMode::duplicate, 0, {});
    device.wait(arrival);
    REQUIRE(device.reached(arrival));
    device.evict(weights, EvictMode::drop, 0, {});
    REQUIRE(counts().live_contexts == before + 1);
  }
  device.release(scratch);
  device.release(weights);
}

TEST("discarded bytes do not cross the link, but where the driver cannot let go of them") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const Range scratch = reserved(device, 2, Purpose::scratch);
  for (const bool can : {true, false, true}) {
    device.wait(device.fetch(scratch, FetchMode::empty, 0, {}));
    const Bytes before = rig->moved_out();
    if (!can) loopback_fail("cuMemDiscardBatchAsync", 1, CUDA_ERROR_NOT_SUPPORTED);
    device.evict(scratch, EvictMode::discard, 0, {});
    REQUIRE(rig->on_card() == 0);
    REQUIRE(rig->moved_out() - before == (can ? 0 : scratch.size));
  }
  device.wait(device.fetch(scratch, FetchMode::empty, 0, {}));
  loopback_fail("cuMemDiscardBatchAsync", 1, CUDA_ERROR_ILLEGAL_ADDRESS);
  REQUIRE(says(told([&] { device.evict(scratch, EvictMode::discard, 0, {}); }),
               "cuMemDiscardBatchAsync"));
  REQUIRE(rig->on_card() == scratch.size);
  device.release(scratch);
}

TEST("where the driver gives no context for moves they share the program's, which is told") {
  for (const char* entry : {"cuCtxCreate_v2", "cuCtxSetLimit", "cuStreamCreate"}) {
    const auto rig = rig::managed();
    const rig::Flat device = rig->device();
    const LoopbackCounts before = counts();
    const Range range = reserved(device, 1);
    loopback_fail(entry, 1, CUDA_ERROR_OUT_OF_MEMORY);
    for (int pass = 0; pass < 2; ++pass) {
      device.wait(device.fetch(range, FetchMode::duplicate, 0, {}));
      device.evict(range, EvictMode::drop, 0, {});
    }
    REQUIRE(rig->moved_in() == 2 * range.size);
    REQUIRE(
        says((*device).memory(Purpose::scratch).holds_up_launches(), "CUDA_ERROR_OUT_OF_MEMORY"));
    const LoopbackCounts after = counts();
    REQUIRE(after.live_contexts == before.live_contexts);
    REQUIRE(after.live_streams == before.live_streams);
    device.release(range);
  }
}

TEST("an arrival may outlive its device, and its context with it") {
  const LoopbackCounts before = counts();
  Fence arrival;
  {
    const rig::Flat device(open_managed(LOOPBACK_PATH, 0));
    REQUIRE((*device).memory(Purpose::scratch).holds_up_launches().empty());
    const Range range = reserved(device, 1);
    arrival = device.fetch(range, FetchMode::duplicate, 0, {});
    device.wait(arrival);
    device.release(range);
  }
  REQUIRE(counts().live_contexts == before.live_contexts + 1);
  arrival.reset();
  REQUIRE(counts().live_contexts == before.live_contexts);
  REQUIRE(counts().live_events == before.live_events);
}

TEST("a lane's clock runs with its moves, before the first one and after") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const Stream stream = rig->stream();
  const Fence start = device.lane_clock(0);
  const Range range = reserved(device, 1);
  rig->occupy(stream);
  const Fence busy[] = {device.mark(stream)};
  device.fetch(range, FetchMode::duplicate, 0, busy);
  const Fence end = device.lane_clock(0);
  device.wait(start);
  REQUIRE(!device.reached(end));
  rig->finish(stream);
  device.wait(end);
  REQUIRE(device.seconds(start, end) >= 0);
  device.release(range);
}

TEST("no call leaves a context behind on the calling thread") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const Range range = reserved(device, 1, Purpose::scratch);
  const Fence fence = device.fetch(range, FetchMode::move, 0, {});
  device.order(rig->stream(), fence);
  device.wait(fence);
  loopback_fail("cuMemPrefetchAsync", 1, CUDA_ERROR_UNKNOWN);
  REQUIRE_THROWS(DeviceFailure, device.evict(range, EvictMode::write_back, 0, {}));
  loopback_fail("cuMemAllocManaged", 1, CUDA_ERROR_UNKNOWN);
  REQUIRE_THROWS(DeviceFailure, reserved(device, 1));
  device.free_bytes();
  device.release(range);
  CUcontext present = nullptr;
  const auto driver = Driver::open(LOOPBACK_PATH);
  REQUIRE(driver->context_get(&present) == CUDA_SUCCESS && present == nullptr);
}

TEST("no advice is given while the last use is not over") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const Range range = reserved(device, 1);
  device.wait(device.fetch(range, FetchMode::duplicate, 0, {}));
  const Stream stream = rig->stream();
  rig->occupy(stream);
  rig->use(stream, range, false);
  const Fence use[] = {device.mark(stream)};
  const std::uint64_t advised = loopback_calls("cuMemAdvise");
  const std::uint64_t waited = loopback_calls("cuEventSynchronize");
  std::atomic<bool> left{false};
  std::thread leaving([&] {
    device.evict(range, EvictMode::drop, 0, use);
    left = true;
  });
  while (!left && loopback_calls("cuEventSynchronize") == waited) std::this_thread::yield();
  const bool too_early = left || loopback_calls("cuMemAdvise") != advised;
  rig->finish(stream);
  leaving.join();
  REQUIRE(!too_early);
  REQUIRE(rig->on_card() == 0 && rig->faulted() == 0);
  device.release(range);
}

TEST("weights never fault: on the card, mapped for the card, or dropped and fetched again") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const Stream stream = rig->stream();
  const Range range = reserved(device, 4);
  device.map_host(range);
  rig->use(stream, range, false);
  REQUIRE(counts().over_link > 0);
  device.unmap_host(range);
  for (int pass = 0; pass < 3; ++pass) {
    const Fence arrival = device.fetch(range, FetchMode::duplicate, pass % 2, {});
    device.order(stream, arrival);
    rig->use(stream, range, false);
    const Fence use[] = {device.mark(stream)};
    device.evict(range, EvictMode::drop, 0, use);
  }
  REQUIRE(rig->faulted() == 0 && rig->moved_out() == 0);
  REQUIRE(rig->moved_in() == 3 * range.size);
  device.release(range);
}

TEST("scratch is mapped for the card wherever it lies") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const Stream stream = rig->stream();
  const Range range = reserved(device, 2, Purpose::scratch);
  rig->use(stream, range, true);
  device.wait(device.fetch(range, FetchMode::move, 0, {}));
  rig->use(stream, range, true);
  device.wait(device.evict(range, EvictMode::write_back, 0, {}));
  rig->use(stream, range, true);
  device.map_host(range);
  device.unmap_host(range);
  rig->use(stream, range, true);
  REQUIRE(rig->faulted() == 0);
  device.release(range);
}

TEST("the limit on managed memory counts every device, and reaching it takes nothing") {
  const auto rig = rig::managed();
  const rig::Flat device = rig->device();
  const rig::Flat other(open_managed(LOOPBACK_PATH, 0));
  const Bytes granule = device.traits().granule;
  const Bytes before = set_managed_limit(4 * granule);
  const Range first = reserved(device, 3);
  const std::string words = told([&] { reserved(other, 2); });
  REQUIRE(says(words, "VRAMX_MANAGED_LIMIT"));
  REQUIRE(says(words, text(3 * granule)) && says(words, text(4 * granule)));
  REQUIRE_THROWS(OutOfMemory, reserved(other, 2, Purpose::scratch));
  REQUIRE(managed_bytes() == 3 * granule && counts().managed == 3 * granule);
  const Range second = reserved(other, 1);
  device.release(first);
  other.release(second);
  REQUIRE(managed_bytes() == 0);
  loopback_fail("cuMemAllocManaged", 1, CUDA_ERROR_OUT_OF_MEMORY);
  REQUIRE_THROWS(OutOfMemory, reserved(device, 4));
  REQUIRE(managed_bytes() == 0);
  REQUIRE(set_managed_limit(before) == 4 * granule);
}
