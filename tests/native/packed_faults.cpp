// Failures while weights are packed and while they come from packed copies: nothing is lost,
// nothing stays leased, and the next pass is right.
#include <cuda.h>

#include <numeric>

#include "base/error.hpp"
#include "check.hpp"
#include "loopback.h"
#include "strategy/lru.hpp"
#include "world.hpp"

using namespace vramx;

namespace {

constexpr BlockId blocks = 36;
constexpr BlockId in_a_group = 4;
/// What packed bytes arrive in has room in it.
constexpr Bytes budget = 32;

Blocks from(BlockId first, BlockId count) {
  Blocks chosen(count);
  std::iota(chosen.begin(), chosen.end(), first);
  return chosen;
}

/// Has every packed copy on the card that finds room there, or none.
class Holding final : public Lru {
 public:
  Holding(const View& view, bool holds) : table_(view.table), holds_(holds) {}

  void used(GroupId /*group*/, Stream /*stream*/) override {
    for (BlockId id = 0; id < table_.size(); ++id) {
      const auto change = table_.change(id);
      table_[id].keeps_packed = holds_;
    }
  }

 private:
  BlockTable& table_;
  bool holds_;
};

/// A world that is used in passes.
struct Passes {
  Passes(rig::Rig& of, const WorldSpec& spec) : rig(of), world(of, spec) {
    for (BlockId id = 0; id < blocks; id += in_a_group) {
      groups.push_back(world.group(from(id, in_a_group)));
    }
  }

  /// Returns how many uses could not be had.
  unsigned pass() {
    unsigned failed = 0;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      try {
        world->acquire(groups[i], 0, nullptr);
        for (const BlockId id : from(i * in_a_group, in_a_group)) REQUIRE(world.reads(id));
        world->release(groups[i], 0);
      } catch (const DeviceFailure&) {
        ++failed;
      } catch (const OutOfMemory&) {
        ++failed;
      }
      REQUIRE(world->stats().leased == 0);
    }
    return failed;
  }
  /// Everything leaves, with what is kept for later moves.
  void empty() {
    world->evict(from(0, blocks), nullptr);
    store().trim(0);
  }
  Store& store() const { return (*rig.device()).memory(Purpose::weights); }

  rig::Rig& rig;
  World world;
  std::vector<GroupId> groups;
};

WorldSpec spec_of(bool threaded, bool holds) {
  return {.budget = budget,
          .blocks = blocks,
          .threaded = threaded,
          .strategy = [holds](const View& view) { return std::make_unique<Holding>(view, holds); }};
}

rig::Fault refused(const char* entry, CUresult result) {
  return {entry, [entry, result] { loopback_fail(entry, 1, result); },
          [entry] { loopback_fail(entry, 0, CUDA_SUCCESS); }};
}

}  // namespace

HOLDS("what fails on its way from a packed copy is told, and the next pass is right") {
  if (!rig.packs()) return;
  for (const bool holds : {false, true}) {
    for (const bool threaded : {holds}) {
      auto faults = rig.faults(Operation::fetch, Purpose::weights);
      if (rig.keeps_frames()) {
        faults.push_back(refused("cuLaunchKernel", CUDA_ERROR_UNKNOWN));
        faults.push_back(refused("cuMemCreate", CUDA_ERROR_OUT_OF_MEMORY));
      }
      Passes passes(rig, spec_of(threaded, holds));
      passes.world.pack(from(0, blocks));
      for (const auto& fault : faults) {
        passes.empty();
        fault.arm();
        const unsigned failed = passes.pass();
        fault.disarm();
        if (failed == 0) throw check::Failed("not met: " + fault.name);
        if (passes.pass() > 0) throw check::Failed("after " + fault.name);
        REQUIRE(passes.store().card_bytes() <= budget * passes.world.block());
      }
      const Stats stats = passes.world->stats();
      REQUIRE(stats.crossed_in < stats.moved_in && (stats.packed_on_card > 0) == holds);
      passes.empty();
      REQUIRE(passes.world.kept_on_host());
    }
  }
}

HOLDS("weights whose packing fails stay right, and are packed the next time") {
  if (!rig.packs()) return;
  auto faults = rig.faults(Operation::pack, Purpose::weights);
  if (rig.keeps_frames()) {
    faults.insert(faults.begin(), refused("cuModuleLoadData", CUDA_ERROR_UNKNOWN));
    faults.push_back(refused("cuMemCreate", CUDA_ERROR_OUT_OF_MEMORY));
  }
  Passes passes(rig, spec_of(true, false));
  World& world = passes.world;
  const Blocks some = from(0, in_a_group);
  for (const auto& fault : faults) {
    world.take(some);
    for (const BlockId id : some) world.write(id);
    world->written(some, Place::card);
    world.give(some);
    passes.empty();
    fault.arm();
    bool told = false;
    try {
      world.pack(some);
    } catch (const DeviceFailure&) {
      told = true;
    } catch (const OutOfMemory&) {
      told = true;
    }
    fault.disarm();
    const Bytes packed = world->stats().packed_on_host;
    if (!told) throw check::Failed("not met: " + fault.name);
    REQUIRE(passes.store().card_bytes() <= budget * world.block());
    if (passes.pass() > 0) throw check::Failed("after " + fault.name);
    passes.empty();
    world.pack(some);
    if (world->stats().packed_on_host <= packed) throw check::Failed("lost by " + fault.name);
    REQUIRE(passes.pass() == 0);
  }
  passes.empty();
  REQUIRE(world.kept_on_host());
}
