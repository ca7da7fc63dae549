// The contract of device/device.hpp, held by every device.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "base/error.hpp"
#include "check.hpp"
#include "held.hpp"

using namespace vramx;
using namespace rig;

HOLDS("the facts are ones that placement can rely on") {
  const Facts& facts = rig.device()->facts();
  REQUIRE(!facts.name.empty() && !facts.kind.empty());
  REQUIRE(facts.capacity > 0 && rig.device()->traits().granule > 0 && facts.lanes > 0);
  REQUIRE(rig.device()->free_bytes() <= facts.capacity);
}

HOLDS("a reserved range is aligned and on the host") {
  const Held weights(rig, 3);
  const Held scratch(rig, 1, Purpose::scratch);
  const Bytes granule = weights.device.traits().granule;
  REQUIRE(weights.range.start % granule == 0 && weights.range.size == 3 * granule);
  REQUIRE(scratch.range.start % granule == 0);
  REQUIRE(rig.on_card() == 0);
}

HOLDS("reserve takes multiples of the granule only") {
  const rig::Flat device = rig.device();
  const Bytes granule = device.traits().granule;
  REQUIRE_THROWS(BadConfig, device.reserve(0, Purpose::weights));
  REQUIRE_THROWS(BadConfig, device.reserve(granule / 2, Purpose::weights));
  REQUIRE_THROWS(BadConfig, device.reserve(granule + 1, Purpose::scratch));
}

HOLDS("a duplicate is dropped with its host copy kept, and nothing copied back") {
  const Held held(rig, 2);
  const auto bytes = pattern(held.range.size, 1);
  store(held, bytes);
  for (int pass = 1; pass <= 3; ++pass) {
    fetched(held, FetchMode::duplicate);
    REQUIRE(rig.on_card() == held.range.size);
    REQUIRE(reads(held, bytes));
    evicted(held, EvictMode::drop);
    REQUIRE(rig.on_card() == 0);
    REQUIRE(loaded(held) == bytes);
    REQUIRE(rig.moved_in() == static_cast<Bytes>(pass) * held.range.size);
  }
  REQUIRE(rig.moved_out() == 0);
}

HOLDS("what was written on the card survives a write-back, however it came") {
  const Held held(rig, 2, Purpose::scratch);
  for (const FetchMode how : {FetchMode::duplicate, FetchMode::move, FetchMode::empty}) {
    const auto before = pattern(held.range.size, 2);
    const auto after = pattern(held.range.size, 3 + static_cast<unsigned>(how));
    store(held, before);
    fetched(held, how);
    if (how != FetchMode::empty) REQUIRE(reads(held, before));
    std::memcpy(held.range.data(), after.data(), after.size());
    evicted(held, EvictMode::write_back);
    REQUIRE(rig.on_card() == 0);
    REQUIRE(loaded(held) == after);
    fetched(held, FetchMode::move);
    REQUIRE(reads(held, after));
    evicted(held, EvictMode::write_back);
    REQUIRE(loaded(held) == after);
  }
}

HOLDS("a discarded range is off the card and can be used again") {
  const Held held(rig, 1, Purpose::scratch);
  fetched(held, FetchMode::empty);
  evicted(held, EvictMode::discard);
  REQUIRE(rig.on_card() == 0);
  const auto bytes = pattern(held.range.size, 4);
  store(held, bytes);
  fetched(held, FetchMode::move);
  REQUIRE(reads(held, bytes));
}

HOLDS("parts of a reserved range move on their own") {
  const Held held(rig, 4);
  const Bytes granule = held.device.traits().granule;
  const auto bytes = pattern(held.range.size, 5);
  store(held, bytes);
  const Range middle = held.part(1, 1);
  const Range tail = held.part(2, 2);
  held.device.wait(held.device.fetch(middle, FetchMode::duplicate, 0, {}));
  held.device.wait(held.device.fetch(tail, FetchMode::move, 1, {}));
  REQUIRE(rig.on_card() == 3 * granule);
  REQUIRE(reads(held, middle, bytes.data() + granule));
  REQUIRE(reads(held, tail, bytes.data() + 2 * granule));
  held.device.wait(held.device.evict(tail, EvictMode::write_back, 0, {}));
  REQUIRE(rig.on_card() == granule);
  REQUIRE(reads(held, middle, bytes.data() + granule));
  held.device.wait(held.device.evict(middle, EvictMode::drop, 0, {}));
  REQUIRE(loaded(held) == bytes);
}

HOLDS("what is not on the card reads as poison there, where the device can tell") {
  if (!rig.poisons()) return;
  for (const Purpose purpose : {Purpose::weights, Purpose::scratch}) {
    const Held held(rig, 1, purpose);
    const auto bytes = pattern(held.range.size, 6);
    const std::vector<unsigned char> poisoned(held.range.size, poison);
    const auto reads_poison = [&] {
      return std::memcmp(held.range.data(), poisoned.data(), poisoned.size()) == 0;
    };
    REQUIRE(reads_poison());
    store(held, bytes);
    REQUIRE(reads_poison());
    for (const EvictMode how : {EvictMode::drop, EvictMode::write_back}) {
      fetched(held, FetchMode::duplicate);
      REQUIRE(reads(held, bytes));
      evicted(held, how);
      REQUIRE(reads_poison());
    }
    fetched(held, FetchMode::duplicate);
    evicted(held, EvictMode::discard);
    REQUIRE(reads_poison());
    REQUIRE(loaded(held) == poisoned);
  }
}

HOLDS("a range may be released while it is on the card") {
  {
    const Held weights(rig, 2);
    const Held scratch(rig, 1, Purpose::scratch);
    fetched(weights, FetchMode::duplicate);
    fetched(scratch, FetchMode::move);
    const Bytes on_card = weights.range.size + scratch.range.size;
    REQUIRE(rig.on_card() == on_card);
    REQUIRE(rig.device()->free_bytes() + on_card <= rig.device()->facts().capacity);
  }
  REQUIRE(rig.on_card() == 0);
}

HOLDS(
    "a range that is mapped for the card is used where it lies, and unmapped with what was "
    "written") {
  if (!rig.reads_over_link()) return;
  for (const Purpose purpose : {Purpose::weights, Purpose::scratch}) {
    const Held held(rig, 2, purpose);
    const auto before = pattern(held.range.size, 7);
    const auto after = pattern(held.range.size, 8);
    store(held, before);
    held.device.map_host(held.range);
    held.device.use_over_link(rig.stream(), held.range);
    REQUIRE(rig.on_card() == 0);
    REQUIRE(reads(held, before));
    std::memcpy(rig::seen(held.device, held.range).data(), after.data(), after.size());
    held.device.unmap_host(held.range);
    REQUIRE(loaded(held) == after);
    fetched(held, FetchMode::duplicate);
    REQUIRE(reads(held, after));
    evicted(held, EvictMode::drop);
    REQUIRE(loaded(held) == after);
  }
}

HOLDS("settled bytes stay readable, on the card and on the host") {
  const Held held(rig, 2);
  const auto bytes = pattern(held.range.size, 9);
  store(held, bytes);
  const Range moved = held.part(0, 1);
  held.device.wait(held.device.fetch(moved, FetchMode::move, 0, {}));
  const auto written = pattern(moved.size, 10);
  std::memcpy(moved.data(), written.data(), written.size());
  held.device.settle(held.range);
  REQUIRE(reads(held, moved, written.data()));
  REQUIRE(reads(held, held.part(1, 1), bytes.data() + moved.size));
}

HOLDS("a fence is reached once the work before it is over") {
  const rig::Flat device = rig.device();
  REQUIRE(device.reached(nullptr));
  device.wait(nullptr);
  const Stream stream = rig.stream();
  device.order(stream, nullptr);
  rig.occupy(stream);
  const Fence fence = device.mark(stream);
  REQUIRE(!device.reached(fence));
  rig.finish(stream);
  device.wait(fence);
  REQUIRE(device.reached(fence));
}

HOLDS("a stream ordered after a fence ends after it") {
  const rig::Flat device = rig.device();
  const Stream busy = rig.stream();
  const Stream other = rig.stream();
  rig.occupy(busy);
  const Fence first = device.mark(busy);
  device.order(other, first);
  const Fence second = device.mark(other);
  REQUIRE(!device.reached(second));
  rig.finish(busy);
  device.wait(second);
  REQUIRE(device.reached(first));
}

HOLDS("nothing comes to the card before what it waits for") {
  const Held held(rig, 1);
  const Stream stream = rig.stream();
  rig.occupy(stream);
  const Fence room = held.device.mark(stream);
  const Fence none = nullptr;
  const Fence after[] = {none, room};
  const Fence arrival = held.device.fetch(held.range, FetchMode::duplicate, 0, after);
  REQUIRE(!held.device.reached(arrival));
  rig.finish(stream);
  held.device.wait(arrival);
  REQUIRE(held.device.reached(room));
  REQUIRE(rig.on_card() == held.range.size);
}

HOLDS("nothing leaves the card before its last use is over") {
  for (const EvictMode how : {EvictMode::drop, EvictMode::write_back, EvictMode::discard}) {
    const Held held(rig, 1);
    fetched(held, FetchMode::duplicate);
    const Stream stream = rig.stream();
    rig.occupy(stream);
    const Fence use[] = {held.device.mark(stream)};
    Fence gone;
    std::thread leaving([&] { gone = held.device.evict(held.range, how, 0, use); });
    rig.finish(stream);
    leaving.join();
    held.device.wait(gone);
    REQUIRE(held.device.reached(use[0]));
    REQUIRE(rig.on_card() == 0);
  }
}

HOLDS("ranges that are misaligned or foreign are refused, and nothing changes") {
  const Held held(rig, 2);
  const auto bytes = pattern(held.range.size, 11);
  store(held, bytes);
  const Bytes granule = held.device.traits().granule;
  const Address start = held.range.start;
  const Range wrong[] = {{start + granule / 2, granule},
                         {start, granule / 2},
                         {start + granule, 2 * granule},
                         {start - granule, granule}};
  for (const Range range : wrong) {
    REQUIRE_THROWS(Error, held.device.fetch(range, FetchMode::duplicate, 0, {}));
    REQUIRE_THROWS(Error, held.device.map_host(range));
  }
  REQUIRE(rig.on_card() == 0 && rig.moved_in() == 0);
  REQUIRE(loaded(held) == bytes);
  fetched(held, FetchMode::duplicate);
  for (const Range range : wrong) {
    REQUIRE_THROWS(Error, held.device.evict(range, EvictMode::drop, 0, {}));
  }
  REQUIRE(rig.on_card() == held.range.size);
  REQUIRE(reads(held, bytes));
}

HOLDS("a failed reserve takes nothing, and the next one works") {
  for (const Purpose purpose : {Purpose::weights, Purpose::scratch}) {
    for (const auto& fault : rig.faults(Operation::reserve, purpose)) {
      fault.arm();
      REQUIRE_THROWS(Error, rig.device()->reserve(rig.device()->traits().granule, purpose));
      const Held held(rig, 1, purpose);
      fetched(held, FetchMode::move);
    }
  }
}

HOLDS("a failed fetch leaves the range on the host, and the next one works") {
  for (const FetchMode how : {FetchMode::duplicate, FetchMode::move}) {
    for (const auto& fault : rig.faults(Operation::fetch, Purpose::weights)) {
      const Held held(rig, 2);
      const auto bytes = pattern(held.range.size, 12);
      store(held, bytes);
      fault.arm();
      REQUIRE_THROWS(Error, held.device.fetch(held.range, how, 0, {}));
      if (rig.on_card() != 0) throw check::Failed("on the card after " + fault.name);
      REQUIRE(loaded(held) == bytes);
      fetched(held, how);
      REQUIRE(rig.on_card() == held.range.size);
      REQUIRE(reads(held, bytes));
      evicted(held, EvictMode::write_back);
      REQUIRE(rig.on_card() == 0);
      REQUIRE(loaded(held) == bytes);
    }
  }
}

HOLDS("a failed evict leaves the range on the card, and the next one works") {
  for (const EvictMode how : {EvictMode::drop, EvictMode::write_back}) {
    for (const auto& fault : rig.faults(Operation::evict, Purpose::weights)) {
      if (how == EvictMode::drop && fault.only_copies) continue;
      const Held held(rig, 2);
      const auto bytes = pattern(held.range.size, 13);
      store(held, bytes);
      fetched(held, FetchMode::duplicate);
      fault.arm();
      REQUIRE_THROWS(Error, held.device.evict(held.range, how, 0, {}));
      if (rig.on_card() == 0) throw check::Failed("off the card after " + fault.name);
      REQUIRE(reads(held, bytes));
      evicted(held, how);
      REQUIRE(rig.on_card() == 0);
      REQUIRE(loaded(held) == bytes);
    }
  }
}

HOLDS("a failed map_host changes nothing, and the next one works") {
  if (!rig.reads_over_link()) return;
  for (const auto& fault : rig.faults(Operation::map_host, Purpose::weights)) {
    const Held held(rig, 1);
    const auto bytes = pattern(held.range.size, 14);
    store(held, bytes);
    fault.arm();
    REQUIRE_THROWS(Error, held.device.map_host(held.range));
    REQUIRE(loaded(held) == bytes);
    held.device.map_host(held.range);
    REQUIRE(reads(held, bytes));
    held.device.unmap_host(held.range);
    REQUIRE(loaded(held) == bytes);
  }
}

HOLDS("threads use ranges of their own at the same time") {
  std::vector<std::thread> threads;
  std::vector<std::string> wrong(4);
  for (unsigned i = 0; i < wrong.size(); ++i) {
    threads.emplace_back([&rig, &wrong, i] {
      for (unsigned turn = 0; turn < 20 && wrong[i].empty(); ++turn) {
        const Held held(rig, 1 + i % 2, i % 2 == 0 ? Purpose::weights : Purpose::scratch);
        const auto bytes = pattern(held.range.size, i + turn);
        store(held, bytes);
        const Lane lane = i % held.device.facts().lanes;
        const Fence here[] = {held.device.fetch(held.range, FetchMode::duplicate, lane, {})};
        held.device.wait(here[0]);
        if (!reads(held, bytes)) wrong[i] = "other bytes on the card";
        held.device.wait(held.device.evict(held.range, EvictMode::drop, lane, here));
        if (loaded(held) != bytes) wrong[i] = "other bytes on the host";
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& each : wrong) REQUIRE(each.empty());
  REQUIRE(rig.on_card() == 0);
}
