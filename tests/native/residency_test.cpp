// What residency keeps: the budget, the bytes, the counts, and leases, whatever fails.
#include <algorithm>
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

SimulatedSpec without_link() {
  SimulatedSpec spec;
  spec.reads_over_link = false;
  return spec;
}

SimulatedDevice& simulated_card(rig::Rig& rig) {
  return static_cast<SimulatedDevice&>(*rig.device());
}

}  // namespace

HOLDS("a cycle of weights stays in its budget, moves each byte once a pass and writes none back") {
  for (const bool threaded : {false, true}) {
    const BlockId count = 8;
    WorldSpec spec;
    spec.budget = 5;
    spec.threaded = threaded;
    World world(rig, spec);
    const Stream stream = rig.stream();
    Blocks groups;
    for (BlockId id = 0; id < count; ++id) groups.push_back(world.group({id}));
    const Bytes before = rig.moved_in();
    for (int pass = 0; pass < 4; ++pass) {
      for (BlockId id = 0; id < count; ++id) {
        world->acquire(groups[id], stream, nullptr);
        rig.use(stream, world.seen(id), false);
        REQUIRE(world.reads(id));
        world->release(groups[id], stream);
      }
    }
    const Stats stats = world->stats();
    REQUIRE(rig.moved_in() - before == 4 * count * world.block());
    REQUIRE(rig.moved_out() == 0 && rig.faulted() == 0);
    REQUIRE(rig.peak_on_card() == spec.budget * world.block());
    REQUIRE(stats.peak_resident == spec.budget * world.block());
    REQUIRE(stats.moved_in == 4 * count * world.block() && stats.moved_out == 0);
    REQUIRE(stats.dropped == stats.evictions() * world.block());
    REQUIRE(stats.misses == 4 * count && stats.hits == 0);
    world->evict(all_of(count), nullptr);
    REQUIRE(world.kept_on_host());
  }
}

HOLDS("written blocks come back as they were written") {
  World world(rig, {});
  for (int pass = 0; pass < 3; ++pass) {
    for (BlockId id = 0; id < 8; ++id) {
      world.take({id});
      REQUIRE(world.reads(id));
      world.write(id);
      world->written({id}, Place::card);
      world.give({id});
    }
  }
  REQUIRE(world->stats().moved_out == (3 * 8 - 2) * world.block());
  world->evict(all_of(8), nullptr);
  REQUIRE(world.kept_on_host());
  REQUIRE(rig.peak_on_card() <= 2 * world.block());
}

TEST("a write is written back once") {
  const auto rig = rig::simulated();
  World world(*rig, {.budget = 2});
  world.take({0});
  world.write(0);
  world->written({0}, Place::card);
  world.give({0});
  for (int turn = 0; turn < 3; ++turn) {
    world->evict({0}, nullptr);
    REQUIRE(rig->moved_out() == world.block());
    world.take({0});
    REQUIRE(world.reads(0));
    world.give({0});
  }
}

TEST("work waits for what it uses to arrive") {
  const auto rig = rig::simulated();
  World world(*rig, {.budget = 2});
  world.take({0}, 1);
  const double arrived = simulated_card(*rig).now();
  REQUIRE(arrived > 0 && simulated_card(*rig).stalled() == arrived);
  rig->device()->wait(rig->device()->mark(1));
  world.give({0}, 1);
}

TEST("what leaves waits for the work that uses it") {
  const auto rig = rig::simulated();
  World world(*rig, {.budget = 1});
  world.take({0}, 1);
  rig->occupy(1);
  world.give({0}, 1);
  const Fence use = rig->device()->mark(1);
  world.take({1}, 2);  // into the room that block 0 leaves
  rig->device()->wait(rig->device()->mark(2));
  REQUIRE(rig->device()->reached(use));
  world.give({1}, 2);
}

HOLDS("blocks given up for another's arrival leave before it comes, whatever lane it takes") {
  World world(rig, {.budget = 1, .threaded = false});
  for (BlockId id = 0; id < 8; ++id) {
    world.take({id});
    world.write(id);
    world->written({id}, Place::card);
    world.give({id});
    world->evict({id}, nullptr);
    world->prefetch({(id + 1) % 8});
    REQUIRE(rig.peak_on_card() <= world.block());
  }
}

HOLDS("a use larger than the budget goes over the link") {
  if (!rig.reads_over_link()) return;
  World world(rig, {.budget = 2});
  const Stream stream = rig.stream();
  const Blocks blocks = {0, 1, 2, 3, 4};
  world.take(blocks, stream);
  for (const BlockId id : blocks) {
    rig.use(stream, world.seen(id), true);
    REQUIRE(world.reads(id));
    world.write(id);
  }
  world->written(blocks, Place::card);
  world.give(blocks, stream);
  REQUIRE(world->stats().over_link == 3 * world.block());
  REQUIRE(rig.faulted() == 0);
  REQUIRE(rig.peak_on_card() <= 2 * world.block());
  world->evict(all_of(8), nullptr);
  REQUIRE(world.kept_on_host());
}

TEST("a use larger than the budget without a link is an error that leaves nothing leased") {
  const auto rig = rig::simulated(without_link());
  World world(*rig, {.budget = 2});
  try {
    world.take({0, 1, 2});
    REQUIRE(false);
  } catch (const OutOfMemory& error) {
    REQUIRE(error.figures.asked == 3 * world.block());
    REQUIRE(error.figures.budget == 2 * world.block());
  }
  REQUIRE(world->stats().leased == 0);
  world.take({0, 1});
  REQUIRE_THROWS(OutOfMemory, world.take({2}));
  REQUIRE(world->stats().leased == 2 * world.block());
  world.give({0, 1});
  world.take({2});
  REQUIRE(world.reads(2));
  world.give({2});
}

HOLDS("a smaller budget takes effect at once, and a failed change changes nothing") {
  World world(rig, {.budget = 6});
  world->prefetch({0, 1, 2, 3, 4, 5});
  REQUIRE(world->set_budget(3 * world.block(), nullptr) == 6 * world.block());
  REQUIRE(rig.on_card() == 3 * world.block());
  world.take({0, 1});
  REQUIRE_THROWS(OutOfMemory, world->set_budget(world.block(), nullptr));
  REQUIRE_THROWS(BadConfig, world->set_budget(0, nullptr));
  REQUIRE_THROWS(BadConfig,
                 world->set_budget(rig.device()->facts().capacity + world.block(), nullptr));
  REQUIRE(world->stats().budget == 3 * world.block());
  world.give({0, 1});
  REQUIRE(world->set_budget(world.block(), nullptr) == 3 * world.block());
  REQUIRE(rig.on_card() == world.block());
}

TEST("bytes moved are counted as they move, not as they are needed later") {
  const auto rig = rig::simulated();
  SimulatedDevice& card = simulated_card(*rig);
  World world(*rig, {.budget = 2, .purpose = Purpose::scratch});
  card.hold();
  world->prefetch({0});
  world->let_die({0});
  card.let_go();
  await([&] { return rig->moved_in() > 0; });
  world.take({0});
  world.give({0});
  REQUIRE(world->stats().moved_in == rig->moved_in());
}

HOLDS("a dead block comes and goes without a copy") {
  World world(rig, {.budget = 1, .purpose = Purpose::scratch});
  world->let_die(all_of(8));
  for (BlockId id = 0; id < 8; ++id) {
    world.take({id});
    world.give({id});
  }
  const Stats stats = world->stats();
  REQUIRE(stats.moved_in == 0 && stats.moved_out == 0);
  REQUIRE(stats.discarded == 7 * world.block());
}

HOLDS("host copies that are being worked on are not fetched meanwhile") {
  World world(rig, {.budget = 4, .policy = "adaptive", .threaded = false});
  const GroupId first = world.group({0});
  const GroupId second = world.group({1});
  world->guess({first, second});
  const auto use = [&](GroupId group) {
    world->acquire(group, 0, nullptr);
    world->release(group, 0);
  };
  bool fetched = false;
  world->on_host(
      {1},
      [&] {
        use(first);  // and second is next
        world->prefetch({1});
        fetched = world->on_card({1});
      },
      nullptr);
  REQUIRE(!fetched);
  use(second);
  REQUIRE(world->on_card({1}));
}

HOLDS("after the end bytes stay readable and nothing more is done") {
  auto world = std::make_unique<World>(rig, WorldSpec{.budget = 2});
  world->take({0});
  world->write(0);
  (*world)->written({0}, Place::card);
  REQUIRE_THROWS(InUse, (*world)->close(nullptr));
  world->give({0});
  (*world)->close(nullptr);
  (*world)->close(nullptr);
  for (BlockId id = 0; id < 8; ++id) REQUIRE(world->reads(id));
  REQUIRE_THROWS(NotOpen, world->take({1}));
  REQUIRE_THROWS(NotOpen, (*world)->evict({1}, nullptr));
  REQUIRE_THROWS(NotOpen, (*world)->set_budget(world->block(), nullptr));
}

TEST("memory is given up only once its evictions are over") {
  const auto rig = rig::simulated();
  const rig::Flat device = rig->device();
  const Bytes block = device.traits().granule;
  const Range next = device.reserve(block, Purpose::weights);
  {
    World world(*rig, {.budget = 1});
    world.take({0});
    world.write(0);
    world->written({0}, Place::card);
    world.give({0});
    world->evict({0}, nullptr);
  }
  for (Lane lane = 0; lane < device.facts().lanes; ++lane) {
    device.wait(device.fetch(next, FetchMode::duplicate, lane, {}));
    REQUIRE(rig->peak_on_card() == block);
    device.wait(device.evict(next, EvictMode::drop, lane, {}));
  }
  device.release(next);
}

HOLDS("no request reaches from one reserved range into the next") {
  for (const bool threaded : {false, true}) {
    Settings settings;
    settings.block = rig.device()->traits().granule;
    settings.budget = 8 * settings.block;
    settings.threaded = threaded;
    Residency residency(rig.device(), settings,
                        [](const View& view) { return make_strategy("adaptive", view); });
    std::vector<Range> ranges;
    Blocks blocks;
    for (int i = 0; i < 4; ++i) {
      ranges.push_back(rig.device()->reserve(2 * settings.block, Purpose::weights));
      residency.adopt(ranges.back(), Purpose::weights, false);
    }
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.start < b.start; });
    for (const Range& range : ranges) {
      for (const BlockId id : residency.blocks_of(range)) blocks.push_back(id);
    }
    residency.take(blocks, 0, true, nullptr);
    REQUIRE(rig.on_card() == 8 * settings.block);
    residency.give(blocks, 0, true);
    residency.evict(blocks, nullptr);
    REQUIRE(rig.on_card() == 0);
    for (const Range& range : ranges) {
      residency.forget(range, false);
      rig.device()->release(range);
    }
  }
}

HOLDS("host_limit is a limit, and reaching it takes nothing") {
  Settings settings;
  settings.block = rig.device()->traits().granule;
  settings.budget = settings.host_limit = 4 * settings.block;
  Residency residency(rig.device(), settings,
                      [](const View& view) { return make_strategy("adaptive", view); });
  const Range first = rig.device()->reserve(3 * settings.block, Purpose::weights);
  const Range second = rig.device()->reserve(2 * settings.block, Purpose::weights);
  residency.adopt(first, Purpose::weights, false);
  REQUIRE_THROWS(OutOfMemory, residency.adopt(second, Purpose::weights, false));
  REQUIRE(residency.stats().managed == first.size);
  residency.forget(first, true);
  residency.adopt(second, Purpose::weights, false);
  residency.forget(second, false);
  rig.device()->release(first);
  rig.device()->release(second);
}
