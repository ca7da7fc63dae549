// Many threads use one residency at random; the bytes, the budget and the counts stay right.
#include <algorithm>
#include <mutex>
#include <numeric>
#include <random>
#include <shared_mutex>

#include "base/error.hpp"
#include "check.hpp"
#include "world.hpp"

using namespace vramx;

namespace {

constexpr BlockId many = 24;
constexpr Bytes budget = 8;
constexpr unsigned threads = 4;

enum class Faults : bool { none, some };

/// What the threads share beside the world.
struct Shared {
  Shared(rig::Rig& of, const WorldSpec& spec)
      : rig(of),
        world(of, spec),
        packed(spec.packed),
        budget(spec.budget),
        blocks(static_cast<BlockId>(spec.blocks)),
        moved_in(rig.moved_in()),
        moved_out(rig.moved_out()) {
    std::mt19937 random(99);
    for (BlockId first = 0; first < blocks; first += 2) {
      Blocks group(1 + random() % 4);
      std::iota(group.begin(), group.end(), first);
      std::erase_if(group, [this](BlockId id) { return id >= blocks; });
      groups.push_back({world.group(group), group});
    }
    for (unsigned i = 0; i < threads; ++i) streams.push_back(rig.stream());
  }

  /// With what is kept for later moves.
  Bytes card_bytes() const { return (*rig.device()).memory(Purpose::weights).card_bytes(); }

  rig::Rig& rig;
  World world;
  bool packed;
  Bytes budget;     ///< the most, in blocks
  BlockId blocks;   ///< how many
  Bytes moved_in;   ///< by the rig, before
  Bytes moved_out;  ///< likewise
  std::vector<std::pair<GroupId, Blocks>> groups;
  std::vector<Stream> streams;
  /// Who writes a block's bytes does it alone. Held for a moment, never while residency is asked.
  std::vector<std::shared_mutex> contents{blocks};
  std::atomic<std::uint64_t> group_uses{0};  ///< of blocks, in the learned order
  std::atomic<std::uint64_t> other_uses{0};
  std::atomic<std::uint64_t> wrong{0};  ///< reads by kernels
};

/// A lease ends with its scope, so that a thread whose test fails holds up no other.
struct Ending {
  explicit Ending(std::function<void()> of) : end(std::move(of)) {}
  ~Ending() { end(); }
  Ending(const Ending&) = delete;
  Ending& operator=(const Ending&) = delete;
  std::function<void()> end;
};

/// One thread's part.
class Player {
 public:
  Player(Shared& shared, unsigned number, bool writes)
      : shared_(shared),
        world_(shared.world),
        random_(number),
        stream_(shared.streams[number]),
        writes_(writes) {}

  void play(unsigned turns, Faults faults) {
    for (unsigned turn = 0; turn < turns; ++turn) {
      try {
        step();
      } catch (const DeviceFailure&) {
        REQUIRE(faults == Faults::some);
      }
    }
  }

 private:
  void step() {
    const unsigned choice = random_() % 100;
    if (choice < 70) {
      run_group(choice < 15);
    } else if (choice < 80) {
      world_->prefetch(some());
    } else if (choice < 90) {
      allowing_in_use([&] { world_->evict(some(), nullptr); });
    } else if (choice < 94) {
      const Advice advice[] = {Advice::preferred_host, Advice::preferred_device,
                               Advice::unset_preferred, Advice::accessed_by,
                               Advice::unset_accessed_by};
      allowing_in_use([&] { world_->advise(some(), advice[random_() % 5], nullptr); });
    } else if (choice < 97) {
      try {
        world_->set_budget(
            (shared_.budget / 2 + random_() % (shared_.budget / 2 + 1)) * world_.block(), nullptr);
      } catch (const OutOfMemory&) {
        // Others lease more than that just now.
      }
    } else if (shared_.packed && choice < 98) {
      allowing_in_use([&] { world_.pack(some()); });
    } else {
      const Stats stats = world_->stats();
      REQUIRE(stats.resident <= shared_.budget * world_.block() && stats.leased <= stats.resident);
      REQUIRE(shared_.card_bytes() <= shared_.budget * world_.block());
    }
  }

  void run_group(bool nested) {
    const auto& [group, members] = shared_.groups[random_() % shared_.groups.size()];
    world_->acquire(group, stream_, nullptr);
    const Ending release([&, of = group] { world_->release(of, stream_); });
    shared_.group_uses += members.size();
    for (const BlockId id : members) use(id);
    if (!nested) return;
    const Blocks others = some();
    world_->take(others, stream_, true, nullptr);
    const Ending give([&] { world_->give(others, stream_, true); });
    shared_.other_uses += others.size();
    for (const BlockId id : others) use(id);
  }

  void use(BlockId id) {
    std::shared_mutex& contents = shared_.contents[id];
    if (writes_ && random_() % 4 == 0 && contents.try_lock()) {
      const std::lock_guard alone(contents, std::adopt_lock);
      shared_.rig.use(stream_, world_.seen(id), true);
      REQUIRE(world_.reads(id));
      world_.write(id);
      world_->written({id}, Place::card);
    } else {
      const std::shared_lock together(contents);
      shared_.rig.use(stream_, world_.seen(id), false);
      if (!writes_ && moves_bytes(id)) {
        look(id);
      } else {
        REQUIRE(world_.reads(id));
      }
    }
  }

  /// Else a block's bytes are where they are, at whatever moment somebody looks.
  bool moves_bytes(BlockId id) const {
    return shared_.rig.poisons() || shared_.rig.device()->host_address(world_.at(id).start) != 0;
  }

  /// In the stream's order, while this thread goes on.
  void look(BlockId id) {
    const Range at = world_.seen(id);
    shared_.rig.launch(stream_, at, [&wrong = shared_.wrong, at, value = world_.value(id)] {
      const auto* bytes = static_cast<const unsigned char*>(at.data());
      for (const Bytes place : {Bytes{0}, at.size / 2, at.size - 1}) {
        if (bytes[place] != value) ++wrong;
      }
    });
  }

  template <class Act>
  void allowing_in_use(const Act& act) {
    try {
      act();
    } catch (const InUse&) {
      // Another thread leases one of them.
    }
  }

  Blocks some() {
    Blocks chosen;
    for (unsigned count = 1 + random_() % 4; count > 0; --count)
      chosen.push_back(random_() % shared_.blocks);
    std::sort(chosen.begin(), chosen.end());
    chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
    return chosen;
  }

  Shared& shared_;
  World& world_;
  std::mt19937 random_;
  Stream stream_;
  bool writes_;
};

void run(Shared& shared, unsigned turns, bool writes, Faults faults) {
  std::vector<std::unique_ptr<Thread>> playing;
  for (unsigned number = 0; number < threads; ++number) {
    playing.push_back(std::make_unique<Thread>([&shared, number, turns, writes, faults] {
      Player(shared, number, writes).play(turns, faults);
    }));
  }
  for (auto& each : playing) each->join();
}

void check_end(Shared& shared, Faults faults) {
  World& world = shared.world;
  rig::Rig& rig = shared.rig;
  for (const Stream stream : shared.streams) rig.synchronize(stream);
  REQUIRE(shared.wrong == 0);
  Blocks every(shared.blocks);
  std::iota(every.begin(), every.end(), 0);
  world->set_budget(shared.budget * world.block(), nullptr);  // returns with every move over
  Stats stats = world->stats();
  REQUIRE(stats.leased == 0);
  // Staging memory counts whether or not it was needed yet.
  if (!shared.packed) REQUIRE(stats.resident == rig.on_card());
  REQUIRE(stats.peak_resident <= shared.budget * world.block());
  REQUIRE(rig.peak_on_card() <= shared.budget * world.block());
  REQUIRE(shared.card_bytes() <= shared.budget * world.block());
  REQUIRE(rig.faulted() == 0);
  world->advise(every, Advice::unset_accessed_by, nullptr);
  world->evict(every, nullptr);
  stats = world->stats();
  if (!shared.packed) REQUIRE(stats.resident == 0 && rig.on_card() == 0);
  REQUIRE(world.kept_on_host());
  REQUIRE(stats.evictions() * world.block() == stats.dropped + stats.moved_out + stats.discarded);
  if (faults == Faults::none) {
    // A use in the midst of another lease may count as a part of that one.
    REQUIRE(stats.hits + stats.misses >= shared.group_uses);
    REQUIRE(stats.hits + stats.misses <= shared.group_uses + shared.other_uses);
    REQUIRE(stats.failed_moves == 0);
  }
  const Bytes moved_in = rig.moved_in() - shared.moved_in;
  const Bytes moved_out = rig.moved_out() - shared.moved_out;
  if (rig.poisons()) {
    REQUIRE(moved_in == stats.crossed_in + stats.over_link);
    REQUIRE(moved_out == stats.moved_out);
  } else if (faults == Faults::none && !shared.packed) {  // packing takes bytes to the card too
    REQUIRE(moved_in == stats.crossed_in);
  }
}

WorldSpec spec_of(bool threaded, bool adaptive) {
  WorldSpec spec;
  spec.budget = budget;
  spec.blocks = many;
  spec.threaded = threaded;
  spec.policy = adaptive ? "adaptive" : "lru";
  return spec;
}

}  // namespace

HOLDS("threads that only read find the right bytes, within the budget") {
  if (!rig.reads_over_link()) return;
  for (const bool adaptive : {false, true}) {
    Shared shared(rig, spec_of(true, adaptive));
    run(shared, check::trials(80), false, Faults::none);
    check_end(shared, Faults::none);
    REQUIRE(shared.world->stats().moved_out == 0);
  }
}

HOLDS("threads that also write lose no write, with a mover's thread and without") {
  if (!rig.reads_over_link()) return;
  for (const bool threaded : {true, false}) {
    for (const bool adaptive : {false, true}) {
      Shared shared(rig, spec_of(threaded, adaptive));
      run(shared, check::trials(100), true, Faults::none);
      check_end(shared, Faults::none);
    }
  }
}

HOLDS("threads that use weights with packed copies find the right bytes, within the budget") {
  if (!rig.packs() || !rig.reads_over_link()) return;
  struct Sizes {
    BlockId blocks;
    Bytes budget;
    bool stages;  ///< what packed bytes arrive in has room
  };
  for (const Sizes sizes : {Sizes{many, 2 * budget, !rig.keeps_frames()}, Sizes{40, 32, true}}) {
    for (const bool threaded : {true, false}) {
      for (const bool writes : {true, false}) {
        WorldSpec spec = spec_of(threaded, true);
        spec.packed = true;
        spec.blocks = sizes.blocks;
        spec.budget = sizes.budget;
        Shared shared(rig, spec);
        run(shared, check::trials(40), writes, Faults::none);
        check_end(shared, Faults::none);
        const Stats stats = shared.world->stats();
        REQUIRE((stats.crossed_in < stats.moved_in) == sizes.stages);
      }
    }
  }
}

HOLDS("moves that fail now and then lose no byte, and every count stays exact") {
  if (!rig.reads_over_link()) return;
  for (const bool threaded : {true, false}) {
    Shared shared(rig, spec_of(threaded, true));
    std::atomic<bool> over{false};
    std::vector<rig::Fault> faults;
    for (const Operation each : {Operation::fetch, Operation::evict, Operation::map_host}) {
      for (auto& fault : rig.faults(each, Purpose::weights)) {
        // An event that cannot be recorded may as well be that of a lease's end.
        if (fault.name != "cuEventRecord") faults.push_back(std::move(fault));
      }
    }
    Thread saboteur([&] {
      std::mt19937 random(7);
      std::uint64_t seen = 0;
      std::size_t armed = 0;
      while (!over) {
        // One fault for so many uses, so that most moves work; and one at a time, since what fails
        // as well while a failed move is taken back leaves its range nowhere.
        if (shared.group_uses >= seen + 20) {
          seen = shared.group_uses;
          faults[armed].disarm();
          armed = random() % faults.size();
          faults[armed].arm();
        }
        std::this_thread::yield();
      }
    });
    try {
      run(shared, check::trials(100), true, Faults::some);
    } catch (...) {
      over = true;
      throw;
    }
    over = true;
    saboteur.join();
    for (const auto& fault : faults) fault.disarm();
    check_end(shared, Faults::some);
  }
}
