// A card divided between two backends.
#include "device/cuda_device.hpp"

#include "base/error.hpp"
#include "check.hpp"
#include "device/managed.hpp"
#include "device/pinned.hpp"
#include "loopback.h"
#include "rig.hpp"

using namespace vramx;

TEST("weights are pinned and mapped, and scratch is unified memory") {
  const auto rig = rig::divided();
  const rig::Flat device = rig->device();
  const Bytes size = device.traits().unit;
  const Bytes pinned = pinned_bytes();
  const Bytes managed = managed_bytes();
  const Range weights = device.reserve(size, Purpose::weights);
  REQUIRE(pinned_bytes() == pinned + size && managed_bytes() == managed);
  const Range scratch = device.reserve(size, Purpose::scratch);
  REQUIRE(pinned_bytes() == pinned + size && managed_bytes() == managed + size);
  device.release(scratch);
  REQUIRE(pinned_bytes() == pinned + size && managed_bytes() == managed);
  device.release(weights);
  REQUIRE(pinned_bytes() == pinned && managed_bytes() == managed);
}

TEST("scratch may be used while it moves, by work that nobody announced") {
  const auto rig = rig::divided();
  const rig::Flat device = rig->device();
  const Range scratch = device.reserve(device.traits().unit, Purpose::scratch);
  const Stream stream = rig->stream();
  rig->occupy(stream);
  rig->use(stream, scratch, false);
  device.wait(device.fetch(scratch, FetchMode::move, 0, {}));
  rig->finish(stream);
  device.wait(device.mark(stream));
  REQUIRE(rig->faulted() == 0);
  device.release(scratch);
}

TEST("addresses that weights and scratch have by turns go to the backend that has them now") {
  const auto rig = rig::divided();
  const rig::Flat device = rig->device();
  const Bytes size = device.traits().unit;
  for (int turn = 0; turn < 20; ++turn) {
    const Purpose purpose = turn % 3 == 0 ? Purpose::weights : Purpose::scratch;
    const Range range = device.reserve(size, purpose);
    device.wait(device.fetch(range, FetchMode::move, 0, {}));
    REQUIRE(rig->on_card() == size);
    device.wait(device.evict(range, EvictMode::write_back, 0, {}));
    REQUIRE(rig->on_card() == 0);
    device.release(range);
  }
}
