// Failures of devices and policies: nothing is lost, nothing stays leased, and what follows works.
#include <numeric>

#include "base/error.hpp"
#include "check.hpp"
#include "world.hpp"

using namespace vramx;

namespace {

Blocks all_of(BlockId count) {
  Blocks blocks(count);
  std::iota(blocks.begin(), blocks.end(), 0);
  return blocks;
}

/// Throws where it is told to.
struct Unruly final : Strategy {
  enum class Where : std::uint8_t { nowhere, fetched, evicted, victim };

  void meet(Where here) const {
    if (here == where) throw std::runtime_error("an unruly policy");
  }
  void fetched(BlockId) override { meet(Where::fetched); }
  void leased(BlockId) override {}
  void evicted(BlockId) override { meet(Where::evicted); }
  std::optional<BlockId> victim(const Evictable& evictable) const override {
    meet(Where::victim);
    for (BlockId id = 0; id < 8; ++id) {
      if (evictable(id)) return id;
    }
    return std::nullopt;
  }

  Where where = Where::nowhere;
};

}  // namespace

HOLDS("a fetch that fails leases nothing, and the next one works") {
  for (const bool threaded : {false, true}) {
    for (const auto& fault : rig.faults(Operation::fetch, Purpose::weights)) {
      World world(rig, {.budget = 2, .threaded = threaded});
      world.take({0});
      world.give({0});
      fault.arm();
      REQUIRE_THROWS(DeviceFailure, world.take({1, 2}));
      const Stats stats = world->stats();
      REQUIRE(stats.leased == 0 && stats.failed_moves == 1);
      if (rig.on_card() != stats.resident) throw check::Failed("uncounted after " + fault.name);
      world.take({1, 2});
      REQUIRE(world.reads(1) && world.reads(2));
      world.give({1, 2});
      world->evict(all_of(8), nullptr);
      REQUIRE(world.kept_on_host());
    }
  }
}

HOLDS("an eviction that fails leaves its block in place, and the next one works") {
  for (const bool threaded : {false, true}) {
    World world(rig, {.budget = 1, .threaded = threaded});
    world.take({0});
    world.write(0);
    world->written({0}, Place::card);
    world.give({0});
    rig.faults(Operation::evict, Purpose::weights)[0].arm();
    REQUIRE_THROWS(DeviceFailure, world->evict({0}, nullptr));
    REQUIRE(world->on_card({0}) && rig.on_card() == world.block());
    rig.faults(Operation::evict, Purpose::weights)[0].arm();
    REQUIRE_THROWS(DeviceFailure, world.take({1}));
    REQUIRE(world->stats().leased == 0);
    REQUIRE(world->on_card({0}) && !world->on_card({1}));
    world.take({1});
    REQUIRE(world.reads(1));
    world.give({1});
    world->evict(all_of(8), nullptr);
    REQUIRE(world.kept_on_host());
  }
}

TEST("an error that is over is not told again") {
  const auto rig = rig::simulated();
  World world(*rig, {.budget = 1, .threaded = false});
  world->prefetch({0});
  rig->faults(Operation::evict, Purpose::weights)[0].arm();
  REQUIRE_THROWS(DeviceFailure, world->prefetch({1}));
  world->evict({0}, nullptr);
  world.take({2});
  world->prefetch({0});
  world.give({2});
  world->prefetch({0});
  REQUIRE(world->on_card({0}));
}

HOLDS("a failed map_host leases nothing, and the next one works") {
  for (const auto& fault : rig.faults(Operation::map_host, Purpose::weights)) {
    World world(rig, {.budget = 1, .threaded = false});
    world.take({0});
    fault.arm();
    REQUIRE_THROWS(DeviceFailure, world.take({1}));
    REQUIRE(world->stats().leased == world.block());
    world.take({1});
    REQUIRE(world.reads(1));
    world.give({1});
    world.give({0});
  }
}

HOLDS("a budget that cannot be made leaves the one there was") {
  World world(rig, {.budget = 4, .threaded = false});
  world->prefetch({0, 1, 2, 3});
  rig.faults(Operation::evict, Purpose::weights)[0].arm();
  REQUIRE_THROWS(DeviceFailure, world->set_budget(2 * world.block(), nullptr));
  const Stats stats = world->stats();
  REQUIRE(stats.budget == 4 * world.block());
  REQUIRE(stats.resident == rig.on_card());
  world->set_budget(2 * world.block(), nullptr);
  REQUIRE(rig.on_card() == 2 * world.block());
}

TEST("a policy that throws changes nothing") {
  using Where = Unruly::Where;
  const auto rig = rig::simulated();
  Unruly* unruly = nullptr;
  Settings settings;
  settings.block = rig->device()->traits().granule;
  settings.budget = 2 * settings.block;
  settings.threaded = false;
  Residency residency(rig->device(), settings, [&](const View&) {
    auto policy = std::make_unique<Unruly>();
    unruly = policy.get();
    return policy;
  });
  const Range range = rig->device()->reserve(4 * settings.block, Purpose::weights);
  residency.adopt(range, Purpose::weights, false);
  residency.prefetch({0, 1});
  for (const Where where : {Where::victim, Where::evicted, Where::fetched}) {
    unruly->where = where;
    REQUIRE_THROWS(std::runtime_error, residency.prefetch({2}));
    REQUIRE_THROWS(std::runtime_error, residency.take({3}, 0, true, nullptr));
    REQUIRE(residency.on_card({0, 1}));
    const Stats stats = residency.stats();
    REQUIRE(stats.resident == 2 * settings.block && stats.leased == 0);
  }
  unruly->where = Where::nowhere;
  residency.take({2, 3}, 0, true, nullptr);
  residency.give({2, 3}, 0, true);
  residency.evict({2, 3}, nullptr);
  REQUIRE(rig->on_card() == 0);
  residency.forget(range, false);
  rig->device()->release(range);
}
