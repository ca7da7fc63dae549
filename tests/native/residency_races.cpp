// Races of residency, each forced: the simulated card holds a fetch, and with it everything that is
// queued behind, until the other side is where the test wants it.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "base/error.hpp"
#include "check.hpp"
#include "fake_device.hpp"
#include "world.hpp"

using namespace vramx;

namespace {

/// A world on a simulated card whose fetches can be held.
struct Held {
  explicit Held(const WorldSpec& spec, const SimulatedSpec& card = {})
      : rig(rig::simulated(card)), world(*rig, spec) {}
  ~Held() { card().let_go(); }

  SimulatedDevice& card() { return static_cast<SimulatedDevice&>(*rig->device()); }
  Bytes leased() { return world->stats().leased; }

  std::unique_ptr<rig::Rig> rig;
  World world;
};

/// Weights with packed copies, for which there is room to arrive in.
const WorldSpec packed_spec{.budget = 12, .policy = "lru", .packed = true};

SimulatedSpec packs(bool keeps_raw) {
  SimulatedSpec card;
  card.unpack_rate = 1e12;
  card.keeps_raw = keeps_raw;
  return card;
}

/// Blocks of one byte on a device whose calls can be held one by one.
struct Gated {
  Gated() { residency.adopt({0x1000, 8}, Purpose::weights, false); }
  ~Gated() { device->open(); }

  Address at(BlockId id) const { return 0x1000 + id; }
  std::string call(const std::string& what, BlockId id) const {
    return what + " " + std::to_string(at(id));
  }
  std::size_t calls(const std::string& call) const {
    const auto log = device->log();
    return static_cast<std::size_t>(std::count_if(
        log.begin(), log.end(), [&](const std::string& each) { return each.starts_with(call); }));
  }
  void prefetch(BlockId id) {
    residency.prefetch({id});
    await([&] { return calls(call("fetch", id)) > 0 && residency.stats().moved_in > 0; });
  }

  std::shared_ptr<FakeDevice> device = std::make_shared<FakeDevice>();
  Residency residency{device, {.budget = 4, .block = 1}, [](const View& view) {
                        return make_strategy("adaptive", view);
                      }};
};

struct GiveUp : std::runtime_error {
  GiveUp() : std::runtime_error("gives up") {}
};

}  // namespace

TEST("threads that want one absent block share its fetch") {
  Held held({.budget = 2});
  const GroupId group = held.world.group({0});
  held.card().hold();
  Waiting second_waits;
  const auto use = [&](const Poll& poll) {
    held.world->acquire(group, 0, poll);
    REQUIRE(held.world.reads(0));
    held.world->release(group, 0);
  };
  Thread first([&] { use(nullptr); });
  await([&] { return held.leased() > 0; });
  Thread second([&] { use(second_waits.poll()); });
  second_waits.await();
  held.card().let_go();
  first.join();
  second.join();
  REQUIRE(held.rig->moved_in() == held.world.block());
  const Stats stats = held.world->stats();
  REQUIRE(stats.hits == 1 && stats.misses == 1 && stats.leased == 0);
}

TEST("an eviction waits for the block to arrive, and then for nobody's lease") {
  Held held({.budget = 2});
  held.card().hold();
  Thread user([&] { held.world.take({0}); });
  await([&] { return held.leased() > 0; });
  Waiting evictor_waits;
  bool refused = false;
  Thread evictor([&] {
    try {
      held.world->evict({0}, evictor_waits.poll());
    } catch (const InUse&) {
      refused = true;
    }
  });
  evictor_waits.await();
  held.card().let_go();
  user.join();
  evictor.join();
  REQUIRE(refused && held.world.reads(0));
  held.world.give({0});
  held.world->evict({0}, nullptr);
  REQUIRE(held.world.kept_on_host());
}

TEST("a use of a block that is being evicted waits and fetches it again") {
  Held held({.budget = 3});
  held.world.take({0});
  held.world.write(0);
  held.world->written({0}, Place::card);
  held.world.give({0});
  held.card().hold();
  held.world->prefetch({1});  // the mover's thread now waits in this fetch
  Thread evictor([&] { held.world->evict({0}, nullptr); });
  await([&] { return !held.world->on_card({0}); });
  Waiting user_waits;
  Thread user([&] {
    held.world->take({0}, 0, true, user_waits.poll());
    REQUIRE(held.world.reads(0));
    held.world.give({0});
  });
  user_waits.await();
  held.card().let_go();
  evictor.join();
  user.join();
  REQUIRE(held.rig->moved_in() == 3 * held.world.block());
  REQUIRE(held.rig->peak_on_card() <= 3 * held.world.block());
}

TEST("an eviction unmaps nothing that another thread leases meanwhile") {
  Held held({.budget = 3});
  held.world->advise({5}, Advice::preferred_host, nullptr);
  held.world->prefetch({0});
  await([&] { return held.world->stats().moved_in > 0; });
  held.card().hold();
  held.world->prefetch({1});
  Thread evictor([&] { held.world->evict({0, 5}, nullptr); });
  await([&] { return !held.world->on_card({0}); });
  held.world.take({5});
  REQUIRE(held.world.reads(5));
  held.card().let_go();
  evictor.join();
  REQUIRE(held.world.reads(5));
  held.world.write(5);
  held.world.give({5});
  held.world->evict({0, 1, 5}, nullptr);
  REQUIRE(held.world.kept_on_host());
}

TEST("an eviction unmaps nothing that is on its way by then") {
  Gated gated;
  gated.residency.advise({5}, Advice::preferred_host, nullptr);
  gated.residency.take({5}, 0, true, nullptr);
  gated.residency.give({5}, 0, true);
  gated.residency.advise({5}, Advice::unset_preferred, nullptr);
  gated.prefetch(0);
  gated.device->shut(gated.call("evict", 0));
  Thread evictor([&] { gated.residency.evict({0, 5}, nullptr); });
  gated.device->await_arrival();
  gated.residency.prefetch({5});
  gated.device->shut(gated.call("fetch", 5));
  evictor.join();
  REQUIRE(gated.calls(gated.call("unmap_host", 5)) <= 1);
  gated.device->open();
  await([&] { return gated.residency.stats().moved_in == 2; });
  REQUIRE(gated.calls(gated.call("unmap_host", 5)) == 1);
}

TEST("host copies are worked on only while all of them are on the host") {
  Gated gated;
  gated.prefetch(0);
  gated.device->shut(gated.call("evict", 0));
  std::atomic<unsigned> polls = 0;
  std::atomic<bool> worked = false;
  bool all_on_host = false;
  Thread worker([&] {
    const auto work = [&] {
      all_on_host =
          gated.calls(gated.call("evict", 0)) == 1 && gated.calls(gated.call("evict", 5)) == 1;
      worked = true;
    };
    gated.residency.on_host({0, 5}, work, [&] { ++polls; });
  });
  gated.device->await_arrival();
  gated.residency.prefetch({5});
  gated.device->shut(gated.call("fetch", 5));
  await([&] { return gated.calls(gated.call("evict", 0)) > 0; });
  const unsigned before = polls;
  await([&] { return worked || polls > before + 1; });
  gated.device->open();
  worker.join();
  REQUIRE(all_on_host);
}

TEST("a use waits for the end of work on its host copy") {
  Held held({.budget = 4});
  std::atomic<bool> working = false;
  std::atomic<bool> may_end = false;
  Thread worker([&] {
    held.world->on_host(
        {0},
        [&] {
          working = true;
          await([&] { return may_end.load(); });
        },
        nullptr);
  });
  await([&] { return working.load(); });
  Waiting user_waits;
  std::atomic<bool> used = false;
  Thread user([&] {
    held.world->take({0}, 0, true, user_waits.poll());
    used = true;
    REQUIRE(held.world.reads(0));
    held.world.give({0});
  });
  await([&] { return used || user_waits.waits(); });
  const bool used_meanwhile = used || held.world->on_card({0});
  may_end = true;
  worker.join();
  user.join();
  REQUIRE(used && !used_meanwhile);
}

TEST("the budget holds when an eviction whose room is promised fails") {
  Held held({.budget = 2});
  held.world->prefetch({0});
  await([&] { return held.world->stats().moved_in > 0; });
  held.card().hold();
  held.world->prefetch({1});
  bool failed = false;
  Thread evictor([&] {
    try {
      held.world->evict({0}, nullptr);
    } catch (const DeviceFailure&) {
      failed = true;
    }
  });
  await([&] { return !held.world->on_card({0}); });
  held.card().fail(Operation::evict, 1);
  held.world->prefetch({2});  // into the room that block 0 is about to leave
  held.card().let_go();
  evictor.join();
  REQUIRE(failed);
  held.world->set_budget(2 * held.world.block(), nullptr);  // returns with every move over
  const Stats stats = held.world->stats();
  REQUIRE(stats.peak_resident <= 2 * held.world.block());
  REQUIRE(stats.resident == held.rig->on_card());
  REQUIRE(held.rig->peak_on_card() <= 2 * held.world.block());
}

TEST("a budget is set while other threads fetch on and on") {
  Gated gated;
  gated.device->shut(gated.call("fetch", 1));
  gated.residency.prefetch({1});
  gated.device->await_arrival();
  std::atomic<bool> only_the_later{false};
  std::atomic<unsigned> polls{0};
  bool set = false;
  Thread setter([&] {
    const Poll no_longer = [&] {
      if (only_the_later && ++polls > 40) throw GiveUp();
    };
    set = gated.residency.set_budget(3, no_longer) == 4;
  });
  await([&] { return gated.residency.stats().stall_seconds > 0; });
  gated.residency.prefetch({2});
  gated.device->shut(gated.call("fetch", 2));
  await([&] { return gated.calls(gated.call("fetch", 1)) > 0; });
  gated.device->await_arrival();
  only_the_later = true;
  setter.join();
  REQUIRE(set && gated.residency.stats().resident == 2);
}

TEST("a smaller budget waits for what is on its way, and takes it off") {
  Gated gated;
  gated.prefetch(0);
  gated.device->shut(gated.call("fetch", 1));
  gated.residency.prefetch({1, 2});
  gated.device->await_arrival();
  Thread setter([&] { gated.residency.set_budget(1, nullptr); });
  await([&] { return gated.residency.stats().stall_seconds > 0; });
  gated.residency.prefetch({3});  // finds no room any more
  gated.device->open();
  setter.join();
  REQUIRE(gated.residency.stats().resident <= 1);
  REQUIRE(gated.calls(gated.call("fetch", 3)) == 0);
}

TEST("a write that is reported while its block arrives is kept") {
  Held held({.budget = 2});
  held.card().hold();
  held.world->prefetch({0});
  held.world->written({0}, Place::card);
  held.card().let_go();
  held.world->evict({0}, nullptr);
  REQUIRE(held.rig->moved_out() == held.world.block());
}

TEST("threads that want one block that comes packed share its fetch") {
  for (const bool keeps_raw : {true, false}) {
    Held held(packed_spec, packs(keeps_raw));
    const Bytes packed_in = held.rig->moved_in();
    held.card().hold();
    Waiting second_waits;
    const auto use = [&](const Poll& poll) {
      held.world->take({0}, 0, true, poll);
      REQUIRE(held.world.reads(0));
      held.world.give({0});
    };
    Thread first([&] { use(nullptr); });
    await([&] { return held.leased() > 0; });
    Thread second([&] { use(second_waits.poll()); });
    second_waits.await();
    held.card().let_go();
    first.join();
    second.join();
    const Stats stats = held.world->stats();
    REQUIRE(stats.moved_in == held.world.block() && stats.crossed_in < stats.moved_in);
    REQUIRE(held.rig->moved_in() - packed_in == stats.crossed_in);
  }
}

TEST("a write that is reported while its block comes packed is kept, and not the packed copy") {
  for (const bool keeps_raw : {true, false}) {
    Held held(packed_spec, packs(keeps_raw));
    held.card().hold();
    held.world->prefetch({0});
    held.world->written({0}, Place::card);
    held.card().let_go();
    held.world.take({0});
    held.world.write(0);
    held.world.give({0});
    held.world->evict({0}, nullptr);
    REQUIRE(held.rig->moved_out() == held.world.block() && held.world.kept_on_host());
    const Bytes crossed = held.world->stats().crossed_in;
    held.world.take({0});
    REQUIRE(held.world.reads(0));
    REQUIRE(held.world->stats().crossed_in == crossed + held.world.block());
    held.world.give({0});
  }
}

TEST("packing waits for a block that is on its way") {
  for (const bool keeps_raw : {true, false}) {
    WorldSpec spec = packed_spec;
    spec.packed = false;
    Held held(spec, packs(keeps_raw));
    held.card().hold();
    held.world->prefetch({0});
    Waiting packer_waits;
    Thread packer([&] {
      const Range range = held.world.at(0);
      held.world->pack({{.offset = range.start, .size = range.size, .type = Type::bf16}},
                       packer_waits.poll());
    });
    packer_waits.await();
    held.card().let_go();
    packer.join();
    held.world.take({0});
    REQUIRE(held.world.reads(0));
    held.world.give({0});
    const Stats stats = held.world->stats();
    REQUIRE(stats.packed_on_host > 0 && stats.crossed_in < stats.moved_in);
    held.world->evict({0}, nullptr);
    REQUIRE(held.world.kept_on_host());
  }
}

TEST("a budget too small for packed bytes waits for those that are on their way") {
  for (const bool keeps_raw : {true, false}) {
    Held held(packed_spec, packs(keeps_raw));
    held.card().hold();
    held.world->prefetch({0});
    Waiting setter_waits;
    Thread setter([&] { held.world->set_budget(held.world.block(), setter_waits.poll()); });
    setter_waits.await();
    held.card().let_go();
    setter.join();
    const Stats stats = held.world->stats();
    REQUIRE(stats.crossed_in < stats.moved_in);
    REQUIRE(held.rig->on_card() <= held.world.block());
    held.world.take({1});
    REQUIRE(held.world.reads(1));
    held.world.give({1});
    REQUIRE(held.world->stats().crossed_in == stats.crossed_in + held.world.block());
    held.world->evict({0, 1}, nullptr);
    REQUIRE(held.rig->on_card() == 0 && held.world.kept_on_host());
  }
}

TEST("a poll that throws ends the wait with nothing leased") {
  Held held({.budget = 2});
  const GroupId group = held.world.group({0, 1});
  held.card().hold();
  const Poll give_up = [] { throw GiveUp(); };
  REQUIRE_THROWS(GiveUp, held.world->acquire(group, 0, give_up));
  REQUIRE_THROWS(GiveUp, held.world->take({0, 2}, 0, true, give_up));
  REQUIRE_THROWS(GiveUp, held.world->evict({0}, give_up));
  REQUIRE(held.leased() == 0);
  held.card().let_go();
  held.world->acquire(group, 0, nullptr);
  REQUIRE(held.world.reads(0) && held.world.reads(1));
  held.world->release(group, 0);
  held.world->evict({0, 1, 2}, nullptr);
  REQUIRE(held.world.kept_on_host());
}

TEST("the end waits for moves, and those who wait for it are told") {
  Held held({.budget = 1});
  held.world.take({0});
  Waiting waits;
  bool told = false;
  Thread user([&] {
    try {
      held.world->take({1}, 0, true, waits.poll());
    } catch (const NotOpen&) {
      told = true;
    }
  });
  waits.await();
  held.world->give({0}, 0, true);
  try {
    held.world->close(nullptr);
  } catch (const InUse&) {
    // The other thread was quicker: it had its turn.
  }
  user.join();
  if (!told) {
    held.world.give({1});
    held.world->close(nullptr);
  }
}

TEST("a thread without leases waits for those of others instead of exceeding the budget") {
  for (const bool over_link : {true, false}) {
    SimulatedSpec card;
    card.reads_over_link = over_link;
    Held held({.budget = 2}, card);
    held.world.take({0, 1});
    Waiting waits;
    Thread other([&] {
      held.world->take({2, 3}, 0, true, waits.poll());
      REQUIRE(held.world.reads(2) && held.world.reads(3));
      held.world.give({2, 3});
    });
    waits.await();
    REQUIRE(held.leased() == 2 * held.world.block());
    REQUIRE(held.world.reads(0) && held.world.reads(1));
    held.world.give({0, 1});
    other.join();
    REQUIRE(held.world->stats().over_link == 0);
    REQUIRE(held.rig->peak_on_card() == 2 * held.world.block());
  }
}

TEST("threads that hold what each other wants do not wait for each other") {
  for (const bool over_link : {true, false}) {
    SimulatedSpec card;
    card.reads_over_link = over_link;
    Held held({.budget = 2}, card);
    std::atomic<int> holding{0};
    std::atomic<int> out_of_memory{0};
    const auto nest = [&](BlockId outer, BlockId inner) {
      held.world.take({outer});
      ++holding;
      await([&] { return holding == 2; });
      try {
        held.world.take({inner});
        REQUIRE(held.world.reads(inner));
        held.world.give({inner});
      } catch (const OutOfMemory&) {
        ++out_of_memory;
      }
      REQUIRE(held.world.reads(outer));
      held.world.give({outer});
    };
    Thread first([&] { nest(0, 2); });
    Thread second([&] { nest(1, 3); });
    first.join();
    second.join();
    REQUIRE(held.leased() == 0);
    // The second to give up its lease may have found the room that the first had left.
    if (over_link) REQUIRE(out_of_memory == 0 && held.world->stats().over_link > 0);
    if (!over_link) REQUIRE(out_of_memory > 0);
    REQUIRE(held.rig->peak_on_card() <= 2 * held.world.block());
  }
}

TEST("a forked child is told, and can let go of what it inherited") {
  auto rig = rig::simulated();
  auto world = std::make_unique<World>(*rig, WorldSpec{.budget = 2});
  world->take({0});  // the mover's thread has started, and waits for more
  world->give({0});
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);  // ends a child that hangs
    int wrong = 0;
    try {
      world->take({1});
      wrong = 1;
    } catch (const NotOpen&) {
    }
    world.reset();
    _exit(wrong);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  world->take({1});
  REQUIRE(world->reads(1));
  world->give({1});
}

TEST("a cycle is planned though all of it that is not on the card is always on its way") {
  const auto device = std::make_shared<FakeDevice>();
  Residency residency(device, {.budget = 10, .block = 1},
                      [](const View& view) { return make_strategy("adaptive", view); });
  constexpr BlockId blocks = 12;
  residency.adopt({0x1000, blocks}, Purpose::weights, false);
  std::vector<GroupId> groups;
  for (BlockId id = 0; id < blocks; ++id) groups.push_back(residency.define({id}));
  residency.guess(groups);
  const auto hold_fetch_of = [&](BlockId id) {
    device->shut("fetch " + std::to_string(0x1000 + id % blocks));
  };
  for (BlockId id = 2; id < blocks; ++id) {
    residency.take({id}, 0, true, nullptr);
    residency.give({id}, 0, true);
  }
  hold_fetch_of(0);
  for (BlockId use = 0; !residency.plan() && use < 4 * blocks; ++use) {
    // What comes ahead is held until its use waits for it.
    residency.acquire(groups[use % blocks], 0, [&] { hold_fetch_of(use + 1); });
    residency.release(groups[use % blocks], 0);
  }
  device->open();
  REQUIRE(residency.plan());
}
