// The simulated card's packed copies: what they take of time and memory, and that what is left out
// shows.
#include <cmath>

#include "base/error.hpp"
#include "check.hpp"
#include "packed.hpp"

using namespace vramx;
using namespace rig;

namespace {

constexpr Moments latest{.when = Moment::latest};

bool near(double one, double other) { return std::abs(one - other) < 1e-12; }

}  // namespace

TEST("a card that unpacks at no rate has no packed copies") {
  REQUIRE(SimulatedDevice(SimulatedSpec{}).packing() == nullptr);
  REQUIRE_THROWS(BadConfig, SimulatedDevice({.unpack_rate = -1}));
}

TEST("packed bytes take the link's time, and unpacking its own") {
  const auto rig =
      simulated({.link = {.up = 1e9, .down = 1e9}, .latency = 1e-3, .unpack_rate = 4e9});
  const Weights weights(*rig, 2);
  const double crossing[] = {static_cast<double>(weights.pack(weights.unit(0))) / 1e9,
                             static_cast<double>(weights.pack(weights.unit(1))) / 1e9};
  const double unpacking = static_cast<double>(weights.size) / 4e9;
  Packing& packing = weights.packing;
  const auto start = rig->device().mark(rig->stream());
  const auto after = [&](const Fence& fence) { return rig->device().seconds(start, fence); };
  const Fence held = packing.hold().fetch(weights.unit(0), FetchMode::duplicate, 0, {});
  REQUIRE(near(after(held), 1e-3 + crossing[0]));
  const Fence raw = packing.unpack().fetch(weights.unit(0), FetchMode::duplicate, 0, {});
  REQUIRE(near(after(raw), after(held) + unpacking));
  // As the other crosses; it is unpacked after the first.
  const Fence streamed = packing.link().fetch(weights.unit(1), FetchMode::duplicate, 1, {});
  REQUIRE(near(after(streamed), std::max(after(held) + crossing[1], after(raw)) + unpacking));
}

TEST("staging memory takes one unit after another, each once the last is unpacked") {
  const auto rig = simulated({.link = {.up = 1e9, .down = 1e9}, .latency = 0, .unpack_rate = 1e8});
  const Weights weights(*rig, 2);
  const double crossing = static_cast<double>(weights.pack()) / 1e9;
  const double unpacking = static_cast<double>(weights.size) / 1e8;
  const auto start = rig->device().mark(rig->stream());
  const Fence both = weights.packing.link().fetch(weights.range, FetchMode::duplicate, 0, {});
  REQUIRE(near(rig->device().seconds(start, both), crossing + 2 * unpacking));
}

TEST("packing needs room on the card for its scratch; staging memory stays from its first use") {
  const Bytes unit = SimulatedSpec{}.granule;
  const auto rig = simulated({.capacity = 3 * unit, .unpack_rate = 1e12});
  const Weights weights(*rig, 2);
  Packing& packing = weights.packing;
  REQUIRE(packing.scratch(unit) == 5 * unit / 2);
  const Range first = weights.unit(0);
  rig->device().wait(rig->device().fetch(first, FetchMode::duplicate, 0, {}));
  REQUIRE_THROWS(OutOfMemory, weights.pack(weights.unit(1)));
  REQUIRE(packing.staging() == 0 && rig->on_card() == unit);
  rig->device().wait(rig->device().evict(first, EvictMode::drop, 0, {}));
  const Bytes size = weights.pack(first);
  REQUIRE(size > 0 && packing.staging() == 2 * size);
  REQUIRE(rig->on_card() == 0 && rig->peak_on_card() == packing.scratch(unit));
  rig->device().wait(packing.link().fetch(first, FetchMode::duplicate, 0, {}));
  REQUIRE(rig->on_card() == unit + packing.staging());
  rig->device().wait(packing.link().evict(first, EvictMode::drop, 0, {}));
  REQUIRE(rig->device().free_bytes() == 3 * unit - packing.staging());
  REQUIRE_THROWS(OutOfMemory, weights.pack(weights.unit(1)));
  packing.trim();
  REQUIRE(rig->on_card() == 0 && packing.staging() == 2 * size);
  REQUIRE(weights.pack(weights.unit(1)) > 0);
}

TEST("packed copies count in the host's memory") {
  const Bytes unit = SimulatedSpec{}.granule;
  const auto rig = simulated({.host_memory = unit + unit / 2, .unpack_rate = 1e12});
  const Weights weights(*rig, 1);
  REQUIRE_THROWS(OutOfMemory, weights.pack());
  REQUIRE(weights.packing.staging() == 0 && rig->on_card() == 0);
}

TEST("a packed copy that left before it was unpacked is wrong on arrival") {
  for (const bool waits : {true, false}) {
    const auto rig = simulated({.unpack_rate = 1e12, .moments = latest});
    const Weights weights(*rig, 1);
    weights.pack();
    weights.fetched(weights.packing.hold());
    const Fence use = weights.packing.unpack().fetch(weights.range, FetchMode::duplicate, 0, {});
    const auto after = waits ? Fences(&use, 1) : Fences{};
    const Fence gone = weights.packing.hold().evict(weights.range, EvictMode::drop, 0, after);
    rig->device().wait(gone);
    rig->device().wait(use);
    REQUIRE(reads(weights, weights.bytes) == waits);
  }
}

TEST("what is used before it is unpacked is not there") {
  for (const bool waits : {true, false}) {
    const auto rig = simulated({.unpack_rate = 1e12, .moments = latest});
    const Weights weights(*rig, 1);
    weights.pack();
    const Fence arrival = weights.packing.link().fetch(weights.range, FetchMode::duplicate, 0, {});
    if (waits) rig->device().wait(arrival);
    REQUIRE(reads(weights, weights.bytes) == waits);
  }
}

TEST("a packed copy that is not forgotten brings back what was") {
  const auto rig = simulated({.unpack_rate = 1e12});
  const Weights weights(*rig, 1);
  weights.pack();
  store(weights, normal(weights.range.size, 2));
  weights.fetched(weights.packing.link());
  REQUIRE(reads(weights, weights.bytes));
}

TEST("what moved to the card as it was unpacked is no more on the host") {
  const auto rig = simulated({.host_addresses = false, .unpack_rate = 1e12});
  const Weights weights(*rig, 1);
  weights.pack();
  weights.fetched(weights.packing.link(), FetchMode::move);
  REQUIRE(loaded(weights) == std::vector<unsigned char>(weights.range.size, poison));
  weights.evicted(weights.packing.link(), EvictMode::write_back);
  REQUIRE(loaded(weights) == weights.bytes);
}
