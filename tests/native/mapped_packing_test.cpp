// Packed copies in mapped memory: frames that stay mapped, and what is refused meanwhile.
#include <cuda.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "check.hpp"
#include "device/cuda_device.hpp"
#include "device/mapped.hpp"
#include "device/pinned.hpp"
#include "loopback.h"
#include "packed.hpp"

using namespace vramx;
using namespace rig;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

/// What the process has of the system's memory: under a sanitizer, what that keeps of its own too.
Bytes memory_of_process() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stoull(line.substr(8)) * KiB;
  }
  throw check::Failed("the system does not tell what the process has of its memory");
}

/// Packs all in one go, so that packed copies share chunks.
Bytes pack_all(const Weights& weights) {
  weights.packing.begin(weights.range.size);
  const Bytes size = weights.pack();
  weights.packing.end();
  return size;
}

Bytes reserved_bytes() {
  LoopbackCounts counts;
  loopback_counts(&counts);
  return counts.reserved;
}

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

TEST("memory that the driver refuses to unmap is whole, and is given back when it is asked again") {
  const auto rig = mapped();
  {
    const Weights weights(*rig, 3);
    Store& store = (*rig->device()).memory(Purpose::weights);
    weights.pack();
    // Two staging slots, and two frames, one of which is mapped at two places.
    for (std::uint64_t nth = 1; nth <= 5; ++nth) {
      pass(weights, 2, true);
      loopback_fail("cuMemUnmap", nth, CUDA_ERROR_UNKNOWN);
      weights.packing.trim();  // the slots, then the frames: by then a slot is asked for again
      REQUIRE((rig->on_card() == 0) == (nth <= 2) && rig->on_card() == store.card_bytes());
    }
    store.trim(0);
    REQUIRE(rig->on_card() == 0 && store.card_bytes() == 0);
  }
  REQUIRE(rig->close().empty());
}

TEST("what the driver refuses to unmap of a range that goes is unmapped when it is asked again") {
  const auto rig = mapped();
  {
    const Weights weights(*rig, 3);
    Store& store = (*rig->device()).memory(Purpose::weights);
    for (std::uint64_t nth = 1; nth <= 3; ++nth) {
      const Bytes before = reserved_bytes();
      const Range range = store.reserve(3 * weights.size, Purpose::weights);
      weights.device.wait(store.link().fetch(range, FetchMode::empty, 0, {}));
      loopback_fail("cuMemUnmap", nth, CUDA_ERROR_UNKNOWN);
      store.release(range);
      REQUIRE(reserved_bytes() > before && rig->on_card() == weights.size);
      fetched(weights, FetchMode::duplicate);  // in that memory too
      REQUIRE(rig->on_card() == weights.range.size && reads(weights, weights.bytes));
      evicted(weights, EvictMode::drop);
      store.trim(0);
      REQUIRE(reserved_bytes() == before && rig->on_card() == 0);
    }
  }
  REQUIRE(rig->close().empty());
}

TEST("packed copies on the card lie without gaps, whichever leave, and keep their bits") {
  const auto rig = mapped();
  {
    const Bytes count = 9;
    const Weights weights(*rig, count);
    const Bytes packed = pack_all(weights) / count;
    Route& hold = weights.packing.hold();
    Route& unpack = weights.packing.unpack();
    Store& store = (*rig->device()).memory(Purpose::weights);
    std::mt19937 random(1);
    std::vector<bool> held(count);
    for (int step = 0; step < 60; ++step) {
      const Bytes i = random() % count;
      const Range unit = weights.unit(i);
      Route& way = held[i] ? unpack : hold;
      weights.device.wait(way.fetch(unit, FetchMode::duplicate, step % 2, {}));
      if (held[i]) {
        REQUIRE(reads(weights, unit, weights.bytes.data() + i * weights.size));
        weights.device.wait(weights.device.evict(unit, EvictMode::drop, 0, {}));
        if (random() % 2 == 0) continue;
        weights.device.wait(hold.evict(unit, EvictMode::drop, 0, {}));
      }
      held[i] = !held[i];
      store.trim(0);
      const auto there = static_cast<Bytes>(std::ranges::count(held, true));
      REQUIRE(store.card_bytes() <=
              there * weights.packing.room(packed + 64 * KiB) + store.traits().granule);
    }
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

TEST("raw bytes of what is packed alone are the system's, and packed bytes alone are pinned") {
  const auto rig = mapped(2 * MiB, HostMemory::packed_alone);
  {
    const Weights weights(*rig, 48);
    Store& store = (*rig->device()).memory(Purpose::weights);
    const Bytes raw = weights.range.size;
    const Bytes before = memory_of_process();
    pack_all(weights);
    const Bytes after = memory_of_process();
    REQUIRE(store.given_back_bytes() == raw);
    if (!sanitized) REQUIRE(before > after + raw / 5);
    REQUIRE(pinned_bytes() <= raw * 3 / 4);
    for (const bool in_parts : {false, true}) {
      std::vector<unsigned char> back(raw);
      const Bytes at_once = in_parts ? 3 * weights.size + 4096 : raw;
      for (Bytes at = 0; at < raw; at += at_once) {
        store.load(back.data() + at, weights.range.start + at, std::min(at_once, raw - at));
      }
      REQUIRE(back == weights.bytes);
    }
    REQUIRE(store.given_back_bytes() == raw);
    pass(weights, 3, true);
    REQUIRE(store.given_back_bytes() == raw);
    if (!sanitized) REQUIRE(memory_of_process() < before);
  }
  REQUIRE(rig->close().empty());
}

TEST("raw bytes come back for whoever needs them, and are pinned for those that move them") {
  for (const char* need : {"raw fetch", "part stored", "write back", "forget"}) {
    const auto rig = mapped(2 * MiB, HostMemory::packed_alone);
    {
      Weights weights(*rig, 3);
      const Flat& device = weights.device;
      Store& store = (*device).memory(Purpose::weights);
      pack_all(weights);
      const Bytes pinned = pinned_bytes();
      const Range one = weights.unit(1);
      unsigned char* const bytes = weights.bytes.data() + weights.size;
      const std::string what = need;
      if (what == "raw fetch") {
        device.wait(device.fetch(one, FetchMode::duplicate, 0, {}));
        REQUIRE(reads(weights, one, bytes));
        device.wait(device.evict(one, EvictMode::drop, 0, {}));
      } else if (what == "part stored") {
        std::fill_n(bytes + 77, 1000, 0x5a);
        device.store(one.start + 77, bytes + 77, 1000);
      } else if (what == "write back") {
        device.wait(weights.packing.link().fetch(one, FetchMode::duplicate, 0, {}));
        std::fill_n(bytes, one.size, 0x5a);
        std::memset(one.data(), 0x5a, one.size);
        device.wait(device.evict(one, EvictMode::write_back, 0, {}));
      }
      weights.packing.forget(one);
      REQUIRE(store.given_back_bytes() == 2 * weights.size);
      const bool moved = what == "raw fetch" || what == "write back";
      REQUIRE(pinned_bytes() == pinned + (moved ? one.size : 0));
      std::vector<unsigned char> back(weights.range.size);
      store.load(back.data(), weights.range.start, back.size());
      REQUIRE(back == weights.bytes);
    }
    if (const auto held = rig->close(); !held.empty()) throw check::Failed(need + (": " + held));
  }
}

TEST("where raw bytes that move cannot be pinned they are pageable and told, or refused") {
  for (const auto unpinned : {Unpinned::accept, Unpinned::refuse}) {
    loopback_set_copies_pageable(1);
    {
      const auto device =
          open_mapped(LOOPBACK_PATH, 0, 2 * MiB, {.unpinned = unpinned, .keeps_raw = false});
      Store& store = device->memory(Purpose::weights);
      const Range range = store.reserve(2 * MiB, Purpose::weights);
      const auto bytes = normal(range.size, 1);
      store.store(range.start, bytes.data(), bytes.size());
      REQUIRE(!store.reads_in_place(range) && store.host_address(range.start) == 0);
      loopback_set_pinnable(0);
      const auto fetch = [&] {
        device->streams().wait(store.link().fetch(range, FetchMode::duplicate, 0, {}));
      };
      if (unpinned == Unpinned::refuse) {
        REQUIRE_THROWS(PinRefused, fetch());
      } else {
        fetch();
        REQUIRE(std::memcmp(range.data(), bytes.data(), bytes.size()) == 0);
      }
      REQUIRE(store.pageable_bytes() == (unpinned == Unpinned::accept ? range.size : 0));
      loopback_set_pinnable(~Bytes{0});
      store.release(range);
      REQUIRE(store.pageable_bytes() == 0);
    }
    loopback_set_copies_pageable(0);
  }
}
