// Journals and counts: what they tell is what happened, on every device and among threads.
#include <algorithm>
#include <numeric>
#include <random>
#include <unordered_map>
#include <unordered_set>

#include "base/error.hpp"
#include "check.hpp"
#include "loopback.h"
#include "world.hpp"

using namespace vramx;

namespace {

constexpr BlockId blocks = 12;
constexpr Bytes budget = 5;
constexpr unsigned threads = 3;
constexpr std::size_t plenty = 1 << 16;

/// Follows a log from its start; returns the bytes on the card at its end.
Bytes replay(const Log& log) {
  std::unordered_map<std::uint64_t, Bytes> sizes;
  for (const PlacedBlock& block : log.blocks) sizes[block.serial] = block.range.size;
  std::unordered_set<std::uint64_t> held(log.resident.begin(), log.resident.end());
  Bytes total = 0;
  for (const auto block : held) total += sizes.at(block);
  REQUIRE(total <= log.budget);
  for (const Event& event : log.events) {
    if (event.kind == Event::Kind::fetched) {
      REQUIRE(held.insert(event.block).second);
      total += sizes.at(event.block);
      REQUIRE(total <= log.budget);
    } else if (event.kind == Event::Kind::evicted || event.kind == Event::Kind::forgotten) {
      REQUIRE(held.erase(event.block) == 1);
      total -= sizes.at(event.block);
    }
    REQUIRE(!event.from && !event.to);
  }
  return total;
}

struct Player {
  World& world;
  const std::vector<GroupId>& groups;
  Stream stream;
  std::mt19937 random;

  void use(GroupId group) {
    try {
      world->acquire(group, stream, nullptr);
      world->release(group, stream);
    } catch (const DeviceFailure&) {
    }
  }

  void turn() {
    if (random() % 8 != 0) return use(groups[random() % groups.size()]);
    try {
      world->evict({static_cast<BlockId>(random() % blocks)}, nullptr);
    } catch (const InUse&) {
    } catch (const DeviceFailure&) {
    }
  }
};

std::vector<GroupId> groups_of(World& world) {
  std::vector<GroupId> groups;
  for (BlockId id = 0; id + 1 < blocks; ++id) groups.push_back(world.group({id, id + 1}));
  return groups;
}

Counts counts_of(World& world, const std::vector<GroupId>& groups) {
  Counts total;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const GroupUsage usage = world->usage(groups[i]);
    REQUIRE(usage.blocks.size() == 2);
    total += usage.blocks.front().counts;
    if (i + 1 == groups.size()) total += usage.blocks.back().counts;
  }
  return total;
}

}  // namespace

HOLDS("a journal that is kept among threads follows every block") {
  World world(rig, {.budget = budget, .blocks = blocks, .policy = "adaptive"});
  const auto groups = groups_of(world);
  std::atomic<bool> over{false};
  std::vector<std::unique_ptr<Thread>> players;
  for (unsigned number = 0; number < threads; ++number) {
    players.push_back(std::make_unique<Thread>([&, number, stream = rig.stream()] {
      Player player{world, groups, stream, std::mt19937(number)};
      while (!over) player.turn();
    }));
  }
  std::size_t events = 0;
  for (int round = 0; round < 5; ++round) {
    world->begin_trace(0, plenty);
    REQUIRE_THROWS(InUse, world->begin_trace(0, plenty));
    const auto evictions = world->stats().evictions();
    await([&] { return world->stats().evictions() > evictions + 10; });
    const Log log = world->end_trace(nullptr);
    REQUIRE(log.lost == 0);
    events += log.events.size();
    replay(log);
  }
  REQUIRE(events > 50);
  world->begin_trace(0, plenty);
  over = true;
  for (auto& player : players) player->join();
  const Log log = world->end_trace(nullptr);
  REQUIRE(replay(log) == world->stats().resident);
  REQUIRE_THROWS(InUse, world->end_trace(nullptr));
}

HOLDS("a journal stays true where moves fail") {
  for (const auto operation : {Operation::fetch, Operation::evict}) {
    std::int64_t told = 0;  // a fault may meet the journal's own clocks instead of a move
    for (const auto& fault : rig.faults(operation, Purpose::weights)) {
      World world(rig, {.budget = budget, .blocks = blocks, .policy = "adaptive"});
      const auto groups = groups_of(world);
      Player player{world, groups, 0, std::mt19937(7)};
      for (int round = 0; round < 12; ++round) {
        for (const GroupId group : {groups[0], groups[4], groups[8]}) {
          player.use(group);  // leaves moves ahead under way
        }
        world->begin_trace(0, plenty);
        fault.arm();
        for (int turn = 0; turn < 4; ++turn) player.turn();
        const Log log = world->end_trace(nullptr);
        REQUIRE(replay(log) == world->stats().resident);
        told += std::count_if(log.events.begin(), log.events.end(), [](const Event& event) {
          return event.kind == Event::Kind::failed && !event.text.empty();
        });
      }
      fault.disarm();
    }
    REQUIRE(told > 0);
  }
}

HOLDS("in a journal, what waits for nothing begins at the time at which it is asked for") {
  World world(rig, {.budget = budget, .blocks = blocks});
  const GroupId group = groups_of(world)[0];
  Player player{world, {}, rig.stream(), std::mt19937(7)};
  const auto marks_of_a_use = [&] {
    const auto before = loopback_calls("cuEventRecord");
    player.use(group);
    return loopback_calls("cuEventRecord") - before;
  };
  player.use(group);
  const auto marks = marks_of_a_use();
  world->begin_trace(player.stream, plenty);
  const auto with_a_journal = marks_of_a_use();
  rig.finish(player.stream);
  const Log log = world->end_trace(nullptr);
  REQUIRE(log.events.size() == 2);
  REQUIRE(log.events[0].kind == Event::Kind::stalled);
  REQUIRE(log.events[0].began == log.events[0].ended);
  REQUIRE(with_a_journal == marks + (rig.device()->facts().slow_moves ? log.events.size() : 0));
}

HOLDS("the blocks' counts add up to the session's") {
  World world(rig, {.budget = budget, .blocks = blocks, .policy = "adaptive"});
  const auto groups = groups_of(world);
  std::vector<std::unique_ptr<Thread>> players;
  for (unsigned number = 0; number < threads; ++number) {
    players.push_back(std::make_unique<Thread>([&, number, stream = rig.stream()] {
      Player player{world, groups, stream, std::mt19937(number)};
      for (int turn = 0; turn < 100; ++turn) player.turn();
    }));
  }
  for (auto& player : players) player->join();
  world->set_budget(2 * world.block(), nullptr);
  const Counts total = counts_of(world, groups);
  const Stats stats = world->stats();
  const auto sum = [](const auto& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
  };
  REQUIRE(sum(total.evicted) == stats.evictions());
  REQUIRE(sum(total.fetched) == stats.evictions() + stats.resident / world.block());
  REQUIRE(total.hits == stats.hits && total.misses == stats.misses);
  REQUIRE(total.moved_in == stats.moved_in && total.moved_out == stats.moved_out);
  REQUIRE(total.dropped == stats.dropped && total.discarded == stats.discarded);
  REQUIRE(total.over_link == stats.over_link);
  REQUIRE(sum(world->ungrouped().fetched) == 0);
}
