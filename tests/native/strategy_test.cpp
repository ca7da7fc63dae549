// The strategies against plain references on random sequences, and against the best there can be.
#include "strategy/strategy.hpp"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>

#include "base/error.hpp"
#include "check.hpp"
#include "rig.hpp"
#include "strategy/farthest.hpp"
#include "strategy/lru.hpp"
#include "strategy/mru.hpp"

using namespace vramx;

namespace {

using Uses = std::vector<BlockId>;
constexpr auto never = ~std::uint64_t{0};

Uses random_uses(std::mt19937& random, std::size_t count, BlockId blocks) {
  Uses uses(count);
  for (auto& use : uses) use = random() % blocks;
  return uses;
}

Uses cycle(BlockId blocks, std::size_t passes) {
  Uses uses;
  for (std::size_t pass = 0; pass < passes; ++pass) {
    for (BlockId block = 0; block < blocks; ++block) uses.push_back(block);
  }
  return uses;
}

/// The future of a sequence of uses, seen from `present`, exactly.
struct Exact {
  explicit Exact(Uses of) : uses(std::move(of)) {}
  std::optional<std::uint64_t> next_use(BlockId block) const {
    for (std::size_t i = present + 1; i < uses.size(); ++i) {
      if (uses[i] == block) return i - present;
    }
    return std::nullopt;
  }
  Uses uses;
  std::size_t present = 0;
};

const std::vector<std::string> names{"farthest", "lru", "mru"};

std::unique_ptr<Strategy> make(const std::string& name, const Exact& future) {
  if (name == "lru") return std::make_unique<Lru>();
  if (name == "mru") return std::make_unique<Mru>();
  return std::make_unique<Farthest>([&](BlockId block) { return future.next_use(block); });
}

/// A cache of `room` blocks over a sequence of uses; `seen` sees each victim before it leaves.
template <class Seen>
std::size_t misses(Strategy& policy, Exact& future, std::size_t room, const Seen& seen) {
  std::set<BlockId> held;
  std::size_t missed = 0;
  for (future.present = 0; future.present < future.uses.size(); ++future.present) {
    const BlockId block = future.uses[future.present];
    if (held.contains(block)) {
      policy.leased(block);
      continue;
    }
    ++missed;
    if (held.size() == room) {
      const auto victim = policy.victim([&](BlockId id) { return held.contains(id); });
      REQUIRE(victim && held.contains(*victim));
      seen(held, *victim);
      policy.evicted(*victim);
      held.erase(*victim);
    }
    policy.fetched(block);
    held.insert(block);
  }
  return missed;
}

std::size_t misses(const std::string& name, const Uses& uses, std::size_t room) {
  Exact future(uses);
  const auto policy = make(name, future);
  return misses(*policy, future, room, [](const auto&, BlockId) {});
}

/// When `block` was last used before the present.
std::size_t last_use(const Exact& future, BlockId block) {
  for (std::size_t i = future.present; i-- > 0;) {
    if (future.uses[i] == block) return i;
  }
  return 0;
}

/// The fewest misses any policy can have: every choice of victim is tried.
std::size_t fewest_misses(const Uses& uses, std::size_t room) {
  std::map<std::set<BlockId>, std::size_t> reached{{{}, 0}};
  for (const BlockId use : uses) {
    std::map<std::set<BlockId>, std::size_t> next;
    const auto keep = [&](const std::set<BlockId>& held, std::size_t missed) {
      const auto [it, fresh] = next.try_emplace(held, missed);
      if (!fresh) it->second = std::min(it->second, missed);
    };
    for (const auto& [held, missed] : reached) {
      if (held.contains(use)) {
        keep(held, missed);
        continue;
      }
      std::set<BlockId> with = held;
      with.insert(use);
      if (with.size() <= room) {
        keep(with, missed + 1);
        continue;
      }
      for (const BlockId victim : held) {
        std::set<BlockId> without = with;
        without.erase(victim);
        keep(without, missed + 1);
      }
    }
    reached = std::move(next);
  }
  std::size_t fewest = uses.size();
  for (const auto& [held, missed] : reached) fewest = std::min(fewest, missed);
  return fewest;
}

}  // namespace

TEST("lru's victim is the one used longest ago") {
  std::mt19937 random(1);
  for (int pass = 0; pass < 30; ++pass) {
    Exact future(random_uses(random, 200, 12));
    const auto policy = make("lru", future);
    misses(*policy, future, 1 + random() % 10, [&](const auto& held, BlockId victim) {
      for (const BlockId other : held) {
        REQUIRE(last_use(future, victim) <= last_use(future, other));
      }
    });
  }
}

TEST("mru's victim is the one used last") {
  std::mt19937 random(2);
  for (int pass = 0; pass < 30; ++pass) {
    Exact future(random_uses(random, 200, 12));
    const auto policy = make("mru", future);
    misses(*policy, future, 1 + random() % 10, [&](const auto& held, BlockId victim) {
      for (const BlockId other : held) {
        REQUIRE(last_use(future, victim) >= last_use(future, other));
      }
    });
  }
}

TEST("farthest's victim is the one needed farthest from now") {
  std::mt19937 random(3);
  for (int pass = 0; pass < 30; ++pass) {
    Exact future(random_uses(random, 200, 12));
    const auto policy = make("farthest", future);
    misses(*policy, future, 1 + random() % 10, [&](const auto& held, BlockId victim) {
      const auto distance = future.next_use(victim).value_or(never);
      for (const BlockId other : held) {
        REQUIRE(distance >= future.next_use(other).value_or(never));
      }
    });
  }
}

TEST("farthest with an exact future has the fewest misses there can be") {
  std::mt19937 random(4);
  for (int pass = 0; pass < 60; ++pass) {
    const Uses uses = random_uses(random, 24, 6);
    const std::size_t room = 1 + random() % 5;
    REQUIRE(misses("farthest", uses, room) == fewest_misses(uses, room));
  }
}

TEST("on a cycle mru is as good as any, and lru misses always") {
  for (const BlockId blocks : {4U, 5U, 6U}) {
    const Uses uses = cycle(blocks, 5);
    for (std::size_t room = 1; room < blocks; ++room) {
      const std::size_t fewest = fewest_misses(uses, room);
      REQUIRE(misses("mru", uses, room) == fewest);
      REQUIRE(misses("farthest", uses, room) == fewest);
      REQUIRE(misses("lru", uses, room) == uses.size());
    }
  }
}

TEST("no policy has fewer misses than the fewest") {
  std::mt19937 random(5);
  for (int pass = 0; pass < 30; ++pass) {
    const Uses uses = random_uses(random, 24, 6);
    const std::size_t room = 1 + random() % 5;
    const std::size_t fewest = fewest_misses(uses, room);
    for (const auto& name : names) REQUIRE(misses(name, uses, room) >= fewest);
  }
}

TEST("farthest without a future is lru") {
  std::mt19937 random(6);
  Farthest policy([](BlockId) { return std::nullopt; });
  for (int pass = 0; pass < 10; ++pass) {
    Exact future(random_uses(random, 100, 12));
    misses(policy, future, 4, [&](const auto& held, BlockId victim) {
      for (const BlockId other : held) {
        REQUIRE(last_use(future, victim) <= last_use(future, other));
      }
    });
    for (BlockId block = 0; block < 12; ++block) policy.evicted(block);
  }
}

TEST("a victim may leave, and there is one whenever any block may") {
  std::mt19937 random(7);
  for (const auto& name : names) {
    Exact future(random_uses(random, 50, 10));
    const auto policy = make(name, future);
    const auto any = [](BlockId) { return true; };
    REQUIRE(!policy->victim(any));
    std::set<BlockId> held;
    for (int step = 0; step < 500; ++step) {
      const BlockId block = random() % 10;
      if (held.contains(block) && random() % 2 == 0) {
        policy->evicted(block);
        held.erase(block);
      } else if (held.contains(block)) {
        policy->leased(block);
      } else {
        policy->fetched(block);
        held.insert(block);
      }
      const std::uint32_t allowed = random();
      const auto evictable = [&](BlockId id) { return (allowed >> id & 1U) != 0; };
      const auto victim = policy->victim(evictable);
      REQUIRE(victim.has_value() == std::any_of(held.begin(), held.end(), evictable));
      if (victim) REQUIRE(held.contains(*victim) && evictable(*victim));
    }
  }
}

TEST("an unknown policy is refused by name, with the known ones") {
  const auto rig = rig::simulated();
  BlockTable table(1);
  const std::atomic<Bytes> budget = 1;
  try {
    make_strategy("fifo", {table, *rig->device(), budget, 1, nullptr});
    REQUIRE(false);
  } catch (const BadConfig& error) {
    const std::string text = error.what();
    REQUIRE(text.find("'fifo'") != std::string::npos);
    for (const auto& name : strategy_names()) REQUIRE(text.find(name) != std::string::npos);
  }
}
