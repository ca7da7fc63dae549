// The contract of device/device.hpp, held by every device.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "base/error.hpp"
#include "check.hpp"
#include "rig.hpp"

using namespace vramx;

namespace {

/// A reserved range, given back with its scope.
struct Held {
  Held(rig::Rig& rig, Bytes granules, Use use = Use::weights)
      : device(rig.device()), range(device.reserve(granules * device.traits().granule, use)) {}
  ~Held() { device.release(range); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  Range part(Bytes first, Bytes count) const {
    const Bytes granule = device.traits().granule;
    return {range.start + first * granule, count * granule};
  }

  const rig::Flat device;
  Range range;
};

std::vector<unsigned char> pattern(Bytes size, unsigned seed) {
  std::vector<unsigned char> bytes(size);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<unsigned char>((i * 31 + i / 4096 + seed) % 251);
  }
  return bytes;
}

void store(const Held& held, const std::vector<unsigned char>& bytes) {
  held.device.store(held.range.start, bytes.data(), bytes.size());
}

std::vector<unsigned char> loaded(const Held& held) {
  std::vector<unsigned char> bytes(held.range.size);
  held.device.load(bytes.data(), held.range.start, bytes.size());
  return bytes;
}

bool reads(const Held& held, Range range, const unsigned char* bytes) {
  return std::memcmp(rig::seen(held.device, range).data(), bytes, range.size) == 0;
}

bool reads(const Held& held, const std::vector<unsigned char>& bytes) {
  return reads(held, held.range, bytes.data());
}

void brought(const Held& held, Arrive how) {
  held.device.wait(held.device.bring(held.range, how, 0, {}));
}

void left(const Held& held, Leave how) {
  held.device.wait(held.device.leave(held.range, how, 0, {}));
}

}  // namespace

HOLDS("the facts are ones that placement can rely on") {
  const Facts& facts = rig.device()->facts();
  REQUIRE(!facts.name.empty() && !facts.kind.empty());
  REQUIRE(facts.capacity > 0 && rig.device()->traits().granule > 0 && facts.lanes > 0);
  REQUIRE(rig.device()->free_bytes() <= facts.capacity);
}

HOLDS("a reserved range is aligned and on the host") {
  const Held weights(rig, 3);
  const Held scratch(rig, 1, Use::scratch);
  const Bytes granule = weights.device.traits().granule;
  REQUIRE(weights.range.start % granule == 0 && weights.range.size == 3 * granule);
  REQUIRE(scratch.range.start % granule == 0);
  REQUIRE(rig.on_card() == 0);
}

HOLDS("reserve takes multiples of the granule only") {
  const rig::Flat device = rig.device();
  const Bytes granule = device.traits().granule;
  REQUIRE_THROWS(BadConfig, device.reserve(0, Use::weights));
  REQUIRE_THROWS(BadConfig, device.reserve(granule / 2, Use::weights));
  REQUIRE_THROWS(BadConfig, device.reserve(granule + 1, Use::scratch));
}

HOLDS("a duplicate is dropped with its host copy kept, and nothing copied back") {
  const Held held(rig, 2);
  const auto bytes = pattern(held.range.size, 1);
  store(held, bytes);
  for (int pass = 1; pass <= 3; ++pass) {
    brought(held, Arrive::duplicate);
    REQUIRE(rig.on_card() == held.range.size);
    REQUIRE(reads(held, bytes));
    left(held, Leave::drop);
    REQUIRE(rig.on_card() == 0);
    REQUIRE(loaded(held) == bytes);
    REQUIRE(rig.moved_in() == static_cast<Bytes>(pass) * held.range.size);
  }
  REQUIRE(rig.moved_out() == 0);
}

HOLDS("what was written on the card survives a write-back, however it came") {
  const Held held(rig, 2, Use::scratch);
  for (const Arrive how : {Arrive::duplicate, Arrive::move, Arrive::empty}) {
    const auto before = pattern(held.range.size, 2);
    const auto after = pattern(held.range.size, 3 + static_cast<unsigned>(how));
    store(held, before);
    brought(held, how);
    if (how != Arrive::empty) REQUIRE(reads(held, before));
    std::memcpy(held.range.data(), after.data(), after.size());
    left(held, Leave::write_back);
    REQUIRE(rig.on_card() == 0);
    REQUIRE(loaded(held) == after);
    brought(held, Arrive::move);
    REQUIRE(reads(held, after));
    left(held, Leave::write_back);
    REQUIRE(loaded(held) == after);
  }
}

HOLDS("a discarded range is off the card and can be used again") {
  const Held held(rig, 1, Use::scratch);
  brought(held, Arrive::empty);
  left(held, Leave::discard);
  REQUIRE(rig.on_card() == 0);
  const auto bytes = pattern(held.range.size, 4);
  store(held, bytes);
  brought(held, Arrive::move);
  REQUIRE(reads(held, bytes));
}

HOLDS("parts of a reserved range move on their own") {
  const Held held(rig, 4);
  const Bytes granule = held.device.traits().granule;
  const auto bytes = pattern(held.range.size, 5);
  store(held, bytes);
  const Range middle = held.part(1, 1);
  const Range tail = held.part(2, 2);
  held.device.wait(held.device.bring(middle, Arrive::duplicate, 0, {}));
  held.device.wait(held.device.bring(tail, Arrive::move, 1, {}));
  REQUIRE(rig.on_card() == 3 * granule);
  REQUIRE(reads(held, middle, bytes.data() + granule));
  REQUIRE(reads(held, tail, bytes.data() + 2 * granule));
  held.device.wait(held.device.leave(tail, Leave::write_back, 0, {}));
  REQUIRE(rig.on_card() == granule);
  REQUIRE(reads(held, middle, bytes.data() + granule));
  held.device.wait(held.device.leave(middle, Leave::drop, 0, {}));
  REQUIRE(loaded(held) == bytes);
}

HOLDS("what is not on the card reads as poison there, where the device can tell") {
  if (!rig.poisons()) return;
  for (const Use use : {Use::weights, Use::scratch}) {
    const Held held(rig, 1, use);
    const auto bytes = pattern(held.range.size, 6);
    const std::vector<unsigned char> poisoned(held.range.size, poison);
    const auto reads_poison = [&] {
      return std::memcmp(held.range.data(), poisoned.data(), poisoned.size()) == 0;
    };
    REQUIRE(reads_poison());
    store(held, bytes);
    REQUIRE(reads_poison());
    for (const Leave how : {Leave::drop, Leave::write_back}) {
      brought(held, Arrive::duplicate);
      REQUIRE(reads(held, bytes));
      left(held, how);
      REQUIRE(reads_poison());
    }
    brought(held, Arrive::duplicate);
    left(held, Leave::discard);
    REQUIRE(reads_poison());
    REQUIRE(loaded(held) == poisoned);
  }
}

HOLDS("a range may be released while it is on the card") {
  {
    const Held weights(rig, 2);
    const Held scratch(rig, 1, Use::scratch);
    brought(weights, Arrive::duplicate);
    brought(scratch, Arrive::move);
    const Bytes on_card = weights.range.size + scratch.range.size;
    REQUIRE(rig.on_card() == on_card);
    REQUIRE(rig.device()->free_bytes() + on_card <= rig.device()->facts().capacity);
  }
  REQUIRE(rig.on_card() == 0);
}

HOLDS("an exposed range is used where it lies, and concealed with what was written") {
  if (!rig.reads_over_link()) return;
  for (const Use use : {Use::weights, Use::scratch}) {
    const Held held(rig, 2, use);
    const auto before = pattern(held.range.size, 7);
    const auto after = pattern(held.range.size, 8);
    store(held, before);
    held.device.expose(held.range);
    held.device.use_over_link(rig.stream(), held.range);
    REQUIRE(rig.on_card() == 0);
    REQUIRE(reads(held, before));
    std::memcpy(rig::seen(held.device, held.range).data(), after.data(), after.size());
    held.device.conceal(held.range);
    REQUIRE(loaded(held) == after);
    brought(held, Arrive::duplicate);
    REQUIRE(reads(held, after));
    left(held, Leave::drop);
    REQUIRE(loaded(held) == after);
  }
}

HOLDS("settled bytes stay readable, on the card and on the host") {
  const Held held(rig, 2);
  const auto bytes = pattern(held.range.size, 9);
  store(held, bytes);
  const Range moved = held.part(0, 1);
  held.device.wait(held.device.bring(moved, Arrive::move, 0, {}));
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
  const Fence arrival = held.device.bring(held.range, Arrive::duplicate, 0, after);
  REQUIRE(!held.device.reached(arrival));
  rig.finish(stream);
  held.device.wait(arrival);
  REQUIRE(held.device.reached(room));
  REQUIRE(rig.on_card() == held.range.size);
}

HOLDS("nothing leaves the card before its last use is over") {
  for (const Leave how : {Leave::drop, Leave::write_back, Leave::discard}) {
    const Held held(rig, 1);
    brought(held, Arrive::duplicate);
    const Stream stream = rig.stream();
    rig.occupy(stream);
    const Fence use[] = {held.device.mark(stream)};
    Fence gone;
    std::thread leaving([&] { gone = held.device.leave(held.range, how, 0, use); });
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
    REQUIRE_THROWS(Error, held.device.bring(range, Arrive::duplicate, 0, {}));
    REQUIRE_THROWS(Error, held.device.expose(range));
  }
  REQUIRE(rig.on_card() == 0 && rig.moved_in() == 0);
  REQUIRE(loaded(held) == bytes);
  brought(held, Arrive::duplicate);
  for (const Range range : wrong) {
    REQUIRE_THROWS(Error, held.device.leave(range, Leave::drop, 0, {}));
  }
  REQUIRE(rig.on_card() == held.range.size);
  REQUIRE(reads(held, bytes));
}

HOLDS("a failed reserve takes nothing, and the next one works") {
  for (const Use use : {Use::weights, Use::scratch}) {
    for (const auto& fault : rig.faults(Operation::reserve, use)) {
      fault.arm();
      REQUIRE_THROWS(Error, rig.device()->reserve(rig.device()->traits().granule, use));
      const Held held(rig, 1, use);
      brought(held, Arrive::move);
    }
  }
}

HOLDS("a failed bring leaves the range on the host, and the next one works") {
  for (const Arrive how : {Arrive::duplicate, Arrive::move}) {
    for (const auto& fault : rig.faults(Operation::bring, Use::weights)) {
      const Held held(rig, 2);
      const auto bytes = pattern(held.range.size, 12);
      store(held, bytes);
      fault.arm();
      REQUIRE_THROWS(Error, held.device.bring(held.range, how, 0, {}));
      if (rig.on_card() != 0) throw check::Failed("on the card after " + fault.name);
      REQUIRE(loaded(held) == bytes);
      brought(held, how);
      REQUIRE(rig.on_card() == held.range.size);
      REQUIRE(reads(held, bytes));
      left(held, Leave::write_back);
      REQUIRE(rig.on_card() == 0);
      REQUIRE(loaded(held) == bytes);
    }
  }
}

HOLDS("a failed leave leaves the range on the card, and the next one works") {
  for (const Leave how : {Leave::drop, Leave::write_back}) {
    for (const auto& fault : rig.faults(Operation::leave, Use::weights)) {
      if (how == Leave::drop && fault.only_copies) continue;
      const Held held(rig, 2);
      const auto bytes = pattern(held.range.size, 13);
      store(held, bytes);
      brought(held, Arrive::duplicate);
      fault.arm();
      REQUIRE_THROWS(Error, held.device.leave(held.range, how, 0, {}));
      if (rig.on_card() == 0) throw check::Failed("off the card after " + fault.name);
      REQUIRE(reads(held, bytes));
      left(held, how);
      REQUIRE(rig.on_card() == 0);
      REQUIRE(loaded(held) == bytes);
    }
  }
}

HOLDS("a failed expose changes nothing, and the next one works") {
  if (!rig.reads_over_link()) return;
  for (const auto& fault : rig.faults(Operation::expose, Use::weights)) {
    const Held held(rig, 1);
    const auto bytes = pattern(held.range.size, 14);
    store(held, bytes);
    fault.arm();
    REQUIRE_THROWS(Error, held.device.expose(held.range));
    REQUIRE(loaded(held) == bytes);
    held.device.expose(held.range);
    REQUIRE(reads(held, bytes));
    held.device.conceal(held.range);
    REQUIRE(loaded(held) == bytes);
  }
}

HOLDS("threads use ranges of their own at the same time") {
  std::vector<std::thread> threads;
  std::vector<std::string> wrong(4);
  for (unsigned i = 0; i < wrong.size(); ++i) {
    threads.emplace_back([&rig, &wrong, i] {
      for (unsigned turn = 0; turn < 20 && wrong[i].empty(); ++turn) {
        const Held held(rig, 1 + i % 2, i % 2 == 0 ? Use::weights : Use::scratch);
        const auto bytes = pattern(held.range.size, i + turn);
        store(held, bytes);
        const Lane lane = i % held.device.facts().lanes;
        const Fence here[] = {held.device.bring(held.range, Arrive::duplicate, lane, {})};
        held.device.wait(here[0]);
        if (!reads(held, bytes)) wrong[i] = "other bytes on the card";
        held.device.wait(held.device.leave(held.range, Leave::drop, lane, here));
        if (loaded(held) != bytes) wrong[i] = "other bytes on the host";
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& each : wrong) REQUIRE(each.empty());
  REQUIRE(rig.on_card() == 0);
}
