// The contract of device/packing.hpp, held by every device that makes packed copies.
#include <algorithm>
#include <array>
#include <thread>

#include "base/error.hpp"
#include "check.hpp"
#include "packed.hpp"

using namespace vramx;
using namespace rig;

namespace {

/// Whether a fault is met by a call, which then throws.
template <typename Call>
bool met(const Fault& fault, Call call) {
  fault.arm();
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  fault.disarm();
  return false;
}

}  // namespace

HOLDS("what does not shrink has no packed copy, and takes nothing of the card") {
  if (!rig.packs()) return;
  const Weights weights(rig, 1);
  REQUIRE(weights.packing.pack(weights.range, {}) == 0);
  REQUIRE(weights.packing.staging() == 0);
  REQUIRE(weights.takes(0));
  const Bytes moved = rig.moved_in();
  for (Route* way : {&weights.packing.link(), &weights.packing.hold(), &weights.packing.unpack()}) {
    REQUIRE_THROWS(BadConfig, way->fetch(weights.range, FetchMode::duplicate, 0, {}));
  }
  REQUIRE(weights.takes(0) && rig.moved_in() == moved);
}

HOLDS("packed weights arrive with the same bits by each way, and cross packed or not at all") {
  if (!rig.packs()) return;
  const Weights weights(rig, 3);
  Packing& packing = weights.packing;
  const Bytes size = weights.pack();
  REQUIRE(size > 0 && size < weights.range.size - weights.range.size / 20);
  const Bytes staging = packing.staging();
  REQUIRE(weights.takes(staging));
  Bytes crossed = rig.moved_in();
  const auto arrived = [&](Bytes more) {
    crossed += more;
    return rig.moved_in() == crossed && reads(weights, weights.bytes);
  };
  for (int pass = 0; pass < 2; ++pass) {
    weights.fetched(packing.link());
    REQUIRE(arrived(size));
    REQUIRE(weights.takes(staging + weights.range.size));
    weights.evicted(packing.link());
    weights.fetched(packing.hold());
    REQUIRE(rig.moved_in() == crossed + size);
    REQUIRE(weights.takes(staging + size));
    crossed += size;
    for (int again = 0; again < 2; ++again) {
      weights.fetched(packing.unpack());
      REQUIRE(arrived(0));
      REQUIRE(weights.takes(staging + size + weights.range.size));
      weights.evicted(packing.unpack());
    }
    weights.evicted(packing.hold());
    REQUIRE(weights.takes(staging));
  }
  REQUIRE(loaded(weights) == weights.bytes);
  REQUIRE(packing.damaged().empty());
  packing.forget(weights.range);
  REQUIRE(packing.staging() == 0 && weights.takes(0));
}

HOLDS("a packed copy with any bit flipped is told once it arrives, once, and harms no other") {
  if (!rig.packs()) return;
  const Weights weights(rig, 3);
  Packing& packing = weights.packing;
  std::mt19937_64 random(3);
  for (int round = 0; round < 8; ++round) {
    weights.pack();
    const Range unit = weights.unit(1);
    for (const Bytes other : {0, 2}) {
      weights.device.wait(packing.link().fetch(weights.unit(other), FetchMode::duplicate, 0, {}));
    }
    const bool holds = round % 2 == 0;
    rig.damage(unit, random());
    Route& way = holds ? packing.hold() : packing.link();
    weights.device.wait(way.fetch(unit, FetchMode::duplicate, 0, {}));
    if (holds) {
      weights.device.wait(packing.unpack().fetch(unit, FetchMode::duplicate, 0, {}));
    }
    const auto found = packing.damaged();
    REQUIRE(found.size() == 1 && found[0].start == unit.start && found[0].size == unit.size);
    REQUIRE(packing.damaged().empty());
    for (const Bytes other : {0, 2}) {
      REQUIRE(reads(weights, weights.unit(other), weights.bytes.data() + other * weights.size));
    }
    weights.evicted(packing.link());
    if (holds) weights.device.wait(packing.hold().evict(unit, EvictMode::drop, 0, {}));
    if (!weights.device.traits().keeps_raw) {  // there are no other bytes, and none are made up
      REQUIRE_THROWS(Corrupted, loaded(weights));
      packing.forget(unit);
      REQUIRE_THROWS(Corrupted, fetched(weights, FetchMode::duplicate));
      return;
    }
    REQUIRE(loaded(weights) == weights.bytes);
    packing.forget(weights.range);
    REQUIRE(packing.damaged().empty());
  }
}

HOLDS("what arrived damaged is told though it was forgotten, unless its range is released") {
  if (!rig.packs()) return;
  for (const bool released : {true, false}) {
    const Weights other(rig, 1);
    {
      const Weights weights(rig, 1);
      weights.pack();
      rig.damage(weights.range, 12345);
      weights.fetched(weights.packing.link());
      if (!released) weights.packing.forget(weights.range);
      REQUIRE(released || other.packing.damaged().size() == 1);
    }
    REQUIRE(other.packing.damaged().empty());
  }
}

HOLDS("what arrived unpacked may be written and written back, once its packed copy is forgotten") {
  if (!rig.packs()) return;
  const Weights weights(rig, 2);
  Packing& packing = weights.packing;
  for (Route* way : {&packing.link(), &packing.unpack()}) {
    weights.pack();
    if (way == &packing.unpack()) weights.fetched(packing.hold());
    weights.fetched(*way, FetchMode::move);
    if (way == &packing.unpack()) weights.evicted(packing.hold());
    packing.forget(weights.range);
    const auto after = normal(weights.range.size, 7);
    std::memcpy(weights.range.data(), after.data(), after.size());
    weights.evicted(*way, EvictMode::write_back);
    REQUIRE(loaded(weights) == after);
    REQUIRE_THROWS(BadConfig, packing.link().fetch(weights.range, FetchMode::duplicate, 0, {}));
    weights.pack();
    weights.fetched(packing.link());
    REQUIRE(reads(weights, after));
    weights.evicted(packing.link());
    packing.forget(weights.range);
    store(weights, weights.bytes);
  }
}

HOLDS("forgetting a part forgets the units that hold some of it") {
  if (!rig.packs()) return;
  const Weights weights(rig, 3);
  Packing& packing = weights.packing;
  weights.pack();
  packing.forget({weights.unit(1).start + 2, 2});
  for (const Range gone : {weights.unit(1), weights.range, weights.unit(0, 2)}) {
    REQUIRE_THROWS(BadConfig, packing.link().fetch(gone, FetchMode::duplicate, 0, {}));
    REQUIRE_THROWS(BadConfig, packing.hold().fetch(gone, FetchMode::duplicate, 0, {}));
  }
  REQUIRE(weights.takes(packing.staging()));
  for (const Bytes kept : {0, 2}) {
    const Range unit = weights.unit(kept);
    rig.device().wait(packing.link().fetch(unit, FetchMode::duplicate, 0, {}));
    REQUIRE(reads(weights, unit, weights.bytes.data() + kept * weights.size));
  }
}

HOLDS("nothing packed arrives before what it waits for") {
  if (!rig.packs()) return;
  const Weights weights(rig, 1);
  Packing& packing = weights.packing;
  weights.pack();
  for (Route* way : {&packing.link(), &packing.hold(), &packing.unpack()}) {
    const Stream stream = rig.stream();
    rig.occupy(stream);
    const Fence after[] = {nullptr, weights.device.mark(stream)};
    const Fence arrival = way->fetch(weights.range, FetchMode::duplicate, 0, after);
    REQUIRE(!weights.device.reached(arrival));
    rig.finish(stream);
    weights.device.wait(arrival);
    REQUIRE(weights.device.reached(after[1]));
    if (way == &packing.link()) weights.evicted(packing.link());
  }
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("no packed copy leaves the card before its last use is over") {
  if (!rig.packs()) return;
  const Weights weights(rig, 1);
  Packing& packing = weights.packing;
  weights.pack();
  weights.fetched(packing.hold());
  const Stream stream = rig.stream();
  rig.occupy(stream);
  const Fence busy[] = {weights.device.mark(stream)};
  const Fence use[] = {packing.unpack().fetch(weights.range, FetchMode::duplicate, 0, busy)};
  Fence gone;
  std::thread leaving([&] { gone = packing.hold().evict(weights.range, EvictMode::drop, 0, use); });
  rig.finish(stream);
  leaving.join();
  weights.device.wait(gone);
  REQUIRE(weights.device.reached(use[0]));
  REQUIRE(weights.takes(packing.staging() + weights.range.size));
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("what is asked of packed copies and cannot be is refused, and nothing changes") {
  if (!rig.packs()) return;
  const Weights weights(rig, 2);
  Packing& packing = weights.packing;
  weights.pack();
  const auto refuses = [&](auto call) {
    const Bytes before[] = {rig.on_card(), rig.moved_in(), packing.staging()};
    REQUIRE_THROWS(BadConfig, call());
    REQUIRE(weights.takes(before[0]) && rig.moved_in() == before[1]);
    REQUIRE(packing.staging() == before[2]);
  };
  const auto fetch = [&](Route& way, Range range) {
    return [&way, range] { way.fetch(range, FetchMode::duplicate, 0, {}); };
  };
  const auto evict = [&](Route& way, Range range) {
    return [&way, range] { way.evict(range, EvictMode::drop, 0, {}); };
  };
  const Address start = weights.range.start;
  const Range wrong[] = {{start + weights.size / 2, weights.size},
                         {start, weights.size / 2},
                         {start + weights.size, 2 * weights.size},
                         {start - weights.size, weights.size}};
  for (const Range range : wrong) {
    refuses([&] { weights.pack(range); });
    refuses(fetch(packing.link(), range));
    refuses(fetch(packing.hold(), range));
    refuses(evict(packing.hold(), range));
  }
  refuses(fetch(packing.unpack(), weights.range));  // there is none on the card
  refuses(evict(packing.hold(), weights.range));
  rig.device().wait(packing.hold().fetch(weights.unit(0), FetchMode::duplicate, 0, {}));
  refuses(fetch(packing.hold(), weights.range));    // the one is there
  refuses(fetch(packing.unpack(), weights.range));  // the other is not
  refuses(evict(packing.hold(), weights.range));
  rig.device().wait(packing.link().fetch(weights.unit(1), FetchMode::duplicate, 0, {}));
  refuses(fetch(packing.link(), weights.range));
  refuses(fetch(packing.unpack(), weights.unit(1)));
  rig.device().wait(packing.unpack().fetch(weights.unit(0), FetchMode::duplicate, 0, {}));
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("a failure leaves packed copies where they were, and the next call works") {
  if (!rig.packs()) return;
  const Weights weights(rig, 1);
  Packing& packing = weights.packing;
  // As `there` says before the call, whether it fails or is done again.
  const auto fails = [&](Operation operation, auto call, auto there) {
    const auto faults = rig.faults(operation, Purpose::weights);
    bool any = faults.empty();
    for (const Fault& fault : faults) {
      const Bytes before = rig.on_card();
      if (!met(fault, call)) {
        REQUIRE(operation != Operation::pack);
        there();
        continue;
      }
      any = true;
      if (!weights.takes(before)) throw check::Failed("moved by " + fault.name);
    }
    REQUIRE(any);
  };
  Bytes size = 0;
  fails(Operation::pack, [&] { size = weights.pack(); }, [] {});
  REQUIRE(size == 0);
  REQUIRE_THROWS(BadConfig, packing.link().fetch(weights.range, FetchMode::duplicate, 0, {}));
  weights.pack();
  for (Route* way : {&packing.link(), &packing.hold(), &packing.unpack()}) {
    fails(Operation::fetch, [&] { weights.fetched(*way); }, [&] { weights.evicted(*way); });
    weights.fetched(*way);
    if (way != &packing.hold()) {
      REQUIRE(reads(weights, weights.bytes));
      weights.evicted(*way);
    }
  }
  fails(
      Operation::evict, [&] { weights.evicted(packing.hold()); },
      [&] { weights.fetched(packing.hold()); });
  weights.fetched(packing.unpack());
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("threads pack and unpack ranges of their own at the same time") {
  if (!rig.packs()) return;
  std::vector<std::thread> threads;
  std::array<std::string, 3> wrong;
  for (unsigned i = 0; i < wrong.size(); ++i) {
    threads.emplace_back([&rig, &wrong, i] {
      for (unsigned turn = 0; turn < 4 && wrong[i].empty(); ++turn) {
        const Weights weights(rig, 1 + i % 2, i);
        Packing& packing = weights.packing;
        weights.pack();
        weights.fetched(packing.hold());
        for (Route* way : {&packing.unpack(), &packing.link()}) {
          weights.fetched(*way);
          if (!reads(weights, weights.bytes)) wrong[i] = "other bytes on the card";
          weights.evicted(*way);
        }
        weights.evicted(packing.hold());
        packing.forget(weights.range);
        if (loaded(weights) != weights.bytes) wrong[i] = "other bytes on the host";
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& each : wrong) REQUIRE(each.empty());
  REQUIRE(rig.on_card() == 0);
}

HOLDS("a range may be released with its packed copies on the card") {
  if (!rig.packs()) return;
  for (int again = 0; again < 2; ++again) {  // at the same addresses, if the system gives them
    const Weights weights(rig, 2);
    weights.pack();
    weights.packing.hold().fetch(weights.range, FetchMode::duplicate, 0, {});
    weights.packing.unpack().fetch(weights.unit(1), FetchMode::duplicate, 0, {});
  }
  REQUIRE(rig.on_card() == 0);
  REQUIRE(rig.device().packing()->staging() == 0);
}
