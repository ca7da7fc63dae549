// What is particular to mapped memory: units, the card's memory that is kept, and remapping.
#include <cuda.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "base/error.hpp"
#include "check.hpp"
#include "device/cuda_device.hpp"
#include "loopback.h"
#include "rig.hpp"

using namespace vramx;
using rig::HostMemory;

namespace {

constexpr Bytes unit = 4 * MiB;

LoopbackCounts counts() {
  LoopbackCounts now{};
  loopback_counts(&now);
  return now;
}

/// Whether as much is held of the hardware as before.
bool same_holdings(const LoopbackCounts& before) {
  const LoopbackCounts now = counts();
  return now.card_memory == before.card_memory && now.registered == before.registered &&
         now.reserved == before.reserved && now.live_streams == before.live_streams &&
         now.live_contexts == before.live_contexts;
}

/// What the stand-in driver says of itself, for a scope.
struct Says {
  Says(void (*set)(int), int value) : set_(set) { set_(value); }
  ~Says() { set_(1); }
  Says(const Says&) = delete;
  Says& operator=(const Says&) = delete;

 private:
  void (*set_)(int);
};

/// Copies may name memory that is not pinned, for a scope.
struct PageableCopies {
  PageableCopies() { loopback_set_copies_pageable(1); }
  ~PageableCopies() { loopback_set_copies_pageable(0); }
  PageableCopies(const PageableCopies&) = delete;
  PageableCopies& operator=(const PageableCopies&) = delete;
};

/// A card of this size, for a scope.
struct Capacity {
  explicit Capacity(Bytes size) { loopback_set_capacity(size); }
  ~Capacity() { loopback_set_capacity(8 * GiB); }
  Capacity(const Capacity&) = delete;
  Capacity& operator=(const Capacity&) = delete;
};

/// A range with bytes of its own, given back with its scope.
struct Held {
  Held(const rig::Flat& of, Bytes size, Purpose purpose = Purpose::weights)
      : device(of), range(of.reserve(size, purpose)), bytes(size) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<unsigned char>((i * 31 + i / 4096) % 251);
    }
    device.store(range.start, bytes.data(), bytes.size());
  }
  ~Held() { device.release(range); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  void fetch() const { device.wait(device.fetch(range, FetchMode::duplicate, 0, {})); }
  void evict(EvictMode how = EvictMode::drop) const {
    device.wait(device.evict(range, how, 0, {}));
  }
  bool card_reads() const { return std::memcmp(range.data(), bytes.data(), bytes.size()) == 0; }
  /// Of what has a host address.
  bool host_reads() const {
    const Range host{device.host_address(range.start), range.size};
    return std::memcmp(host.data(), bytes.data(), bytes.size()) == 0;
  }
  bool host_holds() const {
    std::vector<unsigned char> copy(bytes.size());
    device.load(copy.data(), range.start, copy.size());
    return copy == bytes;
  }

  const rig::Flat device;
  Range range;
  std::vector<unsigned char> bytes;
};

template <class Kind, class Act>
Kind thrown(const Act& act) {
  try {
    act();
  } catch (const Kind& error) {
    return error;
  }
  throw check::Failed("nothing of the expected kind was thrown");
}

bool says(const Error& error, const std::string& part) {
  return std::string(error.what()).find(part) != std::string::npos;
}

}  // namespace

TEST("a card without virtual memory management is refused, and leaves nothing") {
  const LoopbackCounts before = counts();
  {
    const Says without(loopback_set_maps_memory, 0);
    const auto error = thrown<NoDevice>([] { open_mapped(LOOPBACK_PATH, 0, unit); });
    REQUIRE(says(error, "virtual memory management"));
  }
  for (const Bytes wrong : {Bytes{0}, MiB, 3 * MiB}) {
    REQUIRE_THROWS(BadConfig, open_mapped(LOOPBACK_PATH, 0, wrong));
  }
  for (const char* entry : {"cuMemGetAllocationGranularity", "cuStreamCreate"}) {
    loopback_fail(entry, 1, CUDA_ERROR_UNKNOWN);
    REQUIRE_THROWS(DeviceFailure, open_mapped(LOOPBACK_PATH, 0, unit));
  }
  REQUIRE(same_holdings(before));
}

TEST("the facts tell the unit, and whether host memory can be read in place") {
  REQUIRE(rig::mapped(unit)->device()->facts().kind == "mapped");
  REQUIRE(rig::mapped(unit)->device()->traits().unit == unit);
  REQUIRE(rig::mapped(unit)->device()->traits().reads_over_link);
  const auto without = rig::mapped(unit, HostMemory::only_copied);
  REQUIRE(!without->device()->traits().reads_over_link);
}

TEST("whole units move, the shorter last one too, and nothing less") {
  for (const auto host : {HostMemory::read_in_place, HostMemory::only_copied}) {
    const auto rig = rig::mapped(unit, host);
    const rig::Flat device = rig->device();
    const Held held(device, 2 * unit + 2 * MiB);
    const Address start = held.range.start;
    const Range last{start + 2 * unit, 2 * MiB};
    const Range wrong[] = {{start, 2 * MiB}, {start + 2 * MiB, unit}, {start, 2 * unit - 2 * MiB}};
    for (const Range range : wrong) {
      const auto error =
          thrown<BadConfig>([&] { device.fetch(range, FetchMode::duplicate, 0, {}); });
      REQUIRE(says(error, text(unit)));
      REQUIRE_THROWS(BadConfig, device.evict(range, EvictMode::drop, 0, {}));
    }
    device.wait(device.fetch(last, FetchMode::duplicate, 0, {}));
    REQUIRE(rig->on_card() == last.size);
    device.wait(device.fetch({start, 2 * unit}, FetchMode::duplicate, 1, {}));
    REQUIRE(held.card_reads());
    REQUIRE_THROWS(BadConfig, held.fetch());
    device.wait(device.evict({start, unit}, EvictMode::drop, 0, {}));
    REQUIRE_THROWS(BadConfig, held.evict());
    REQUIRE(rig->on_card() == unit + last.size);
  }
}

TEST("the card's memory is kept and used again") {
  const auto rig = rig::mapped(unit);
  const Held first(rig->device(), 4 * unit);
  const Held second(rig->device(), 4 * unit);
  first.fetch();
  const std::uint64_t created = loopback_calls("cuMemCreate");
  for (int turn = 0; turn < 5; ++turn) {
    first.evict();
    second.fetch();
    REQUIRE(second.card_reads());
    second.evict();
    first.fetch();
  }
  REQUIRE(loopback_calls("cuMemCreate") == created);
  REQUIRE(counts().card_memory == 4 * unit);
}

TEST("the card's memory that is kept is never more than was in use at one time") {
  const auto rig = rig::mapped(unit);
  std::vector<std::unique_ptr<Held>> all;
  // Ranges whose last units come in every size.
  for (const Bytes size : {unit, 2 * MiB, 2 * unit, unit + 2 * MiB, 3 * unit}) {
    all.push_back(std::make_unique<Held>(rig->device(), size));
  }
  Bytes most = 0;
  for (std::size_t turn = 0; turn < 40; ++turn) {
    const Held& held = *all[turn * 7 % all.size()];
    const Held& other = *all[(turn * 7 + 1 + turn % 4) % all.size()];
    held.fetch();
    if (turn % 3 == 0) other.fetch();
    most = std::max(most, rig->on_card());
    REQUIRE(counts().card_memory <= most);
    REQUIRE(held.card_reads());
    if (turn % 3 == 0) other.evict();
    held.evict();
  }
}

TEST("memory kept in other sizes makes way before the card is found full") {
  const auto rig = rig::mapped(unit);
  const Held large(rig->device(), 2 * unit);
  const Held small(rig->device(), 2 * MiB);
  const Held smaller(rig->device(), 2 * MiB);
  large.fetch();
  small.fetch();
  large.evict();
  const Capacity tight(2 * unit + 2 * MiB);
  smaller.fetch();
  REQUIRE(smaller.card_reads() && small.card_reads());
}

TEST("a full card is told with its figures, and nothing has changed") {
  const auto rig = rig::mapped(unit);
  const Held there(rig->device(), unit);
  const Held held(rig->device(), 3 * unit);
  there.fetch();
  {
    const Capacity tight(3 * unit);
    const auto error = thrown<OutOfMemory>([&] { held.fetch(); });
    REQUIRE(error.figures.asked == unit && error.figures.resident == 3 * unit);
    REQUIRE(says(error, text(unit)) && says(error, text(3 * unit)) && says(error, "0 B are free"));
    REQUIRE(rig->on_card() == unit && rig->moved_in() == unit);
  }
  REQUIRE(held.host_holds() && there.card_reads());
  held.fetch();
  REQUIRE(held.card_reads());
}

TEST("host memory that the system refuses is told with its figures") {
  const auto rig = rig::mapped(unit);
  const Held held(rig->device(), 2 * unit);
  const LoopbackCounts before = counts();
  loopback_fail("cuMemHostRegister_v2", 1, CUDA_ERROR_OUT_OF_MEMORY);
  const auto error =
      thrown<OutOfMemory>([&] { rig->device()->reserve(3 * unit, Purpose::weights); });
  REQUIRE(error.figures.asked == 3 * unit && error.figures.resident == 2 * unit);
  REQUIRE(says(error, text(3 * unit)) && says(error, text(2 * unit)));
  REQUIRE(same_holdings(before));
  REQUIRE(pinned_bytes() == 2 * unit);
}

TEST("what the system refuses to pin is pageable, where that is accepted") {
  const CUresult refusals[] = {CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_OPERATING_SYSTEM,
                               CUDA_ERROR_NOT_PERMITTED, CUDA_ERROR_NOT_SUPPORTED};
  const PageableCopies allowed;
  const LoopbackCounts before = counts();
  for (const CUresult refusal : refusals) {
    for (const bool refused : {false, true}) {
      {
        const rig::Flat device(open_mapped(LOOPBACK_PATH, 0, unit, {.unpinned = Unpinned::accept}));
        const LoopbackCounts open = counts();
        if (refused) loopback_fail("cuMemHostRegister_v2", 1, refusal);
        const Held held(device, 3 * unit);
        REQUIRE((*device).memory(Purpose::weights).pageable_bytes() == (refused ? 3 * unit : 0));
        const Bytes pinned = refused ? 0 : 3 * unit;
        REQUIRE(counts().registered == pinned && pinned_bytes() == pinned);
        for (const EvictMode how : {EvictMode::drop, EvictMode::write_back, EvictMode::drop}) {
          held.fetch();
          REQUIRE(held.card_reads());
          held.evict(how);
          REQUIRE(held.host_holds());
        }
        held.fetch();
        std::memset(held.range.data(), 7, held.range.size);
        held.evict(EvictMode::write_back);
        std::vector<unsigned char> back(held.range.size);
        device.load(back.data(), held.range.start, back.size());
        REQUIRE(back == std::vector<unsigned char>(back.size(), 7));
        const Bytes copied = counts().to_card + counts().to_host - open.to_card - open.to_host;
        REQUIRE(copied == 6 * held.range.size);
        REQUIRE(counts().pageable - open.pageable == (refused ? copied : 0));
      }
      REQUIRE(same_holdings(before));
      REQUIRE(pinned_bytes() == 0);
    }
  }
}

TEST("what the card cannot use in place says so, and comes to the card when it is settled") {
  const PageableCopies allowed;
  const rig::Flat device(open_mapped(LOOPBACK_PATH, 0, unit, {.unpinned = Unpinned::accept}));
  const Held pinned(device, unit);
  loopback_fail("cuMemHostRegister_v2", 1, CUDA_ERROR_OUT_OF_MEMORY);
  const Held held(device, 2 * unit);
  const LoopbackCounts before = counts();
  REQUIRE(device.reads_in_place(pinned.range) && !device.reads_in_place(held.range));
  REQUIRE(device.host_address(pinned.range.start) != 0);
  REQUIRE(device.host_address(held.range.start) == 0);
  const auto error = thrown<DeviceFailure>([&] { device.map_host(held.range); });
  REQUIRE(says(error, text(held.range.size)));
  REQUIRE(same_holdings(before));
  device.settle(pinned.range);
  device.settle(held.range);
  REQUIRE(counts().on_card == held.range.size);
  REQUIRE(held.card_reads() && pinned.host_reads());
}

TEST("the host copy has an address of its own, where the card can use it there") {
  for (const auto host : {HostMemory::read_in_place, HostMemory::only_copied}) {
    const auto rig = rig::mapped(unit, host);
    const rig::Flat device = rig->device();
    const Held held(device, 2 * unit);
    if (host == HostMemory::only_copied) {
      REQUIRE(device.host_address(held.range.start) == 0);
      continue;
    }
    const Address start = device.host_address(held.range.start);
    REQUIRE(device.host_address(held.range.start + unit + 5) == start + unit + 5);
    const Stream stream = rig->stream();
    const auto over_link = [&] {
      const LoopbackCounts before = counts();
      loopback_touch(stream, start, held.range.size, 1);
      REQUIRE(counts().faulted == before.faulted);
      return counts().over_link - before.over_link;
    };
    REQUIRE(held.host_reads() && over_link() == held.range.size);
    held.fetch();
    REQUIRE(held.host_reads() && over_link() == held.range.size);
    held.evict();
    REQUIRE(held.host_reads());
  }
}

TEST("either copy is carried to the other in the order of a stream, in parts of units too") {
  const auto rig = rig::mapped(unit);
  const rig::Flat device = rig->device();
  const Held held(device, 3 * unit);
  held.fetch();
  const Range part{held.range.start + unit / 2 + 1, unit + 77};
  auto* on_card = static_cast<unsigned char*>(part.data());
  auto* on_host =
      static_cast<unsigned char*>(Range{device.host_address(part.start), part.size}.data());
  const Stream stream = rig->stream();
  std::memset(on_host, 3, part.size);
  rig->occupy(stream);
  device.refresh(stream, part);
  REQUIRE(on_card[0] != 3 && on_card[part.size - 1] != 3);
  rig->finish(stream);
  REQUIRE(std::memcmp(on_card, on_host, part.size) == 0);
  std::memset(on_card, 4, part.size);
  device.save(stream, part);
  REQUIRE(std::memcmp(on_card, on_host, part.size) == 0);
  const std::size_t begin = part.start - held.range.start;
  const auto* all = static_cast<unsigned char*>(held.range.data());
  REQUIRE(all[begin - 1] == held.bytes[begin - 1]);
  REQUIRE(all[begin + part.size] == held.bytes[begin + part.size]);
}

TEST("pinned host copies stay out of forked children, whose writes could move the pages") {
  const auto rig = rig::mapped(unit);
  const Held held(rig->device(), unit);
  const Address start = rig->device()->host_address(held.range.start);
  std::ifstream maps("/proc/self/smaps");
  std::string flags;
  bool here = false;
  for (std::string line; flags.empty() && std::getline(maps, line);) {
    std::size_t low = 0;
    std::size_t high = 0;
    if (std::sscanf(line.c_str(), "%zx-%zx ", &low, &high) == 2) {
      here = start >= low && start < high;
    } else if (here && line.rfind("VmFlags:", 0) == 0) {
      flags = line + " ";
    }
  }
  REQUIRE(flags.find(" dc ") != std::string::npos);
}

TEST("copies of pageable memory keep their place in a lane") {
  const auto rig = rig::mapped(unit, HostMemory::pageable);
  const rig::Flat device = rig->device();
  const Held held(device, unit);
  const Stream stream = rig->stream();
  rig->occupy(stream);
  const Fence busy = device.mark(stream);
  const Fence arrival = device.fetch(held.range, FetchMode::duplicate, 0, {&busy, 1});
  REQUIRE(!device.reached(arrival) && rig->moved_in() == 0);
  rig->finish(stream);
  device.wait(arrival);
  REQUIRE(held.card_reads());
}

TEST("the driver is not asked again about what was reached") {
  const auto rig = rig::mapped(unit);
  const rig::Flat device = rig->device();
  const Held held(device, unit);
  const Stream stream = rig->stream();
  const char* entries[] = {"cuEventQuery", "cuEventSynchronize", "cuStreamWaitEvent"};
  const auto asked = [&] {
    std::uint64_t calls = 0;
    for (const char* entry : entries) calls += loopback_calls(entry);
    return calls;
  };
  rig->occupy(stream);
  const Fence use = device.mark(stream);
  REQUIRE(!device.reached(use));
  rig->finish(stream);
  device.wait(use);
  const std::uint64_t before = asked();
  REQUIRE(device.reached(use));
  device.wait(use);
  device.order(stream, use);
  const Fence arrival = device.fetch(held.range, FetchMode::duplicate, 0, {&use, 1});
  REQUIRE(asked() == before);
  while (!device.reached(arrival)) std::this_thread::yield();
  const std::uint64_t after = asked();
  device.wait(arrival);
  REQUIRE(asked() == after);
  REQUIRE(held.card_reads());
}

TEST("a budget that the card cannot give is told with its figures") {
  const auto rig = rig::mapped(unit);
  const Held held(rig->device(), 2 * unit);
  held.fetch();
  const Capacity tight(5 * unit);
  rig->device()->check_budget(5 * unit);
  const auto error = thrown<OutOfMemory>([&] { rig->device()->check_budget(5 * unit + 1); });
  REQUIRE(error.figures.asked == 5 * unit + 1 && error.figures.resident == 2 * unit);
  REQUIRE(says(error, text(2 * unit)) && says(error, text(3 * unit) + " are free"));
}

TEST("a move that fails at any of its calls is undone for every unit") {
  struct Case {
    const char* entry;
    std::uint64_t times;  ///< it is called in one move of three units
  };
  const auto check_host = [](const rig::Rig& rig, const Held& held) {
    REQUIRE(rig.on_card() == 0 && held.host_holds());
    if (rig.device()->traits().reads_over_link) REQUIRE(held.host_reads());
  };
  for (const auto host : {HostMemory::read_in_place, HostMemory::only_copied}) {
    const auto rig = rig::mapped(unit, host);
    const Held held(rig->device(), 3 * unit);
    const Case fetching[] = {{"cuMemCreate", 3},
                             {"cuMemMap", 3},
                             {"cuMemSetAccess", 1},
                             {"cuMemcpyHtoDAsync_v2", 3},
                             {"cuEventRecord", 1}};
    const Case leaving[] = {
        {"cuMemcpyDtoHAsync_v2", 3}, {"cuStreamSynchronize", 1}, {"cuMemUnmap", 3}};
    for (const auto& [entry, times] : fetching) {
      for (std::uint64_t nth = 1; nth <= times; ++nth) {
        loopback_fail(entry, entry == std::string("cuMemCreate") ? 1 : nth, CUDA_ERROR_UNKNOWN);
        REQUIRE_THROWS(DeviceFailure, held.fetch());
        check_host(*rig, held);
      }
    }
    held.fetch();
    for (const auto& [entry, times] : leaving) {
      for (std::uint64_t nth = 1; nth <= times; ++nth) {
        loopback_fail(entry, nth, CUDA_ERROR_UNKNOWN);
        REQUIRE_THROWS(DeviceFailure, held.evict(EvictMode::write_back));
        REQUIRE(rig->on_card() == held.range.size && held.card_reads());
      }
    }
    held.evict(EvictMode::write_back);
    check_host(*rig, held);
    held.fetch();
    REQUIRE(held.card_reads());
  }
}

TEST("settled bytes that find no room on the card can still be loaded") {
  const auto rig = rig::mapped(unit, HostMemory::only_copied);
  const Held held(rig->device(), 3 * unit);
  {
    const Capacity tight(2 * unit);
    rig->device()->settle(held.range);
    REQUIRE(rig->on_card() == 2 * unit);
  }
  REQUIRE(held.host_holds());
  REQUIRE(std::memcmp(held.range.data(), held.bytes.data(), 2 * unit) == 0);
}

TEST("no call on mapped memory leaves a context behind on the calling thread") {
  for (const auto host : {HostMemory::read_in_place, HostMemory::only_copied}) {
    const auto rig = rig::mapped(unit, host);
    {
      const Held held(rig->device(), unit, Purpose::scratch);
      held.fetch();
      loopback_fail("cuMemcpyDtoHAsync_v2", 1, CUDA_ERROR_UNKNOWN);
      REQUIRE_THROWS(DeviceFailure, held.evict(EvictMode::write_back));
      held.evict(EvictMode::discard);
      rig->device()->settle(held.range);
    }
    loopback_fail("cuMemAddressReserve", 1, CUDA_ERROR_UNKNOWN);
    REQUIRE_THROWS(DeviceFailure, rig->device()->reserve(unit, Purpose::weights));
    CUcontext present = nullptr;
    const auto driver = Driver::open(LOOPBACK_PATH);
    REQUIRE(driver->context_get(&present) == CUDA_SUCCESS && present == nullptr);
  }
}
