// Residency with packed copies of weights: random programs on the simulated card. The bytes are
// right, the budget holds, and the sums are what a count of the blocks says, after every step.
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <random>

#include "base/error.hpp"
#include "check.hpp"
#include "packed.hpp"
#include "residency/residency.hpp"
#include "strategy/lru.hpp"

using namespace vramx;
using namespace rig;

namespace {

constexpr Bytes block = 64 * KiB;
constexpr Bytes most_budget = 24 * block;
/// Below this packed bytes have no room to arrive in.
constexpr Bytes least_budget = 5 * block;

/// Of several, as it comes.
const std::vector<unsigned char>& contents(std::mt19937& random) {
  static const auto all = [] {
    std::vector<std::vector<unsigned char>> made;
    for (unsigned seed = 0; seed < 16; ++seed) made.push_back(normal(block, seed));
    return made;
  }();
  return all[random() % all.size()];
}

/// What the table is to say, by its blocks.
void recount(const BlockTable& table) {
  Sums sums;
  Blocks unwanted;
  for (BlockId id = 0; id < table.size(); ++id) {
    const Block& each = table[id];
    if (each.state == Block::State::unused) continue;
    const Bytes size = each.range.size;
    const bool free = each.settled() && each.leases == 0;
    const bool stays = each.confined && !each.dead;
    sums.managed += size;
    if (!each.confined) sums.held[Place::host] += size;
    if (each.at == Place::card) {
      sums.held[Place::card] += size;
      if (each.leases > 0) sums.leased += size;
      if (free && !stays) sums.idle[Place::card] += size;
      if (each.dead) ++sums.dead_on_card;
    }
    if (each.packed_on_card) {
      REQUIRE(each.packed > 0);
      sums.held[Place::card] += each.packed;
      if (each.settled()) sums.idle[Place::card] += each.packed;
      const bool wanted = each.keeps_packed && !each.packed_stale && !each.dead && each.read_mostly;
      if (each.settled() && !wanted) unwanted.push_back(id);
    }
    if (!each.dead && !(each.settled() && each.at == Place::card)) ++sums.away;
  }
  sums.held[Place::card] += table.sums().reserved;
  const Sums& said = table.sums();
  REQUIRE(said.managed == sums.managed && said.leased == sums.leased);
  REQUIRE(said.held[Place::card] == sums.held[Place::card]);
  REQUIRE(said.held[Place::host] == sums.held[Place::host]);
  REQUIRE(said.idle[Place::card] == sums.idle[Place::card]);
  REQUIRE(said.dead_on_card == sums.dead_on_card && said.away == sums.away);
  Blocks listed = table.packed_unwanted();
  std::ranges::sort(listed);
  REQUIRE(listed == unwanted);
}

/// Wants packed copies on the card, and over the link, as it likes.
class Fickle final : public Lru {
 public:
  Fickle(const View& view, unsigned seed) : table_(view.table), random_(seed) {}

  void used(GroupId group, Stream stream) override {
    for (BlockId id = 0; id < table_.size(); ++id) {
      if (random_() % 8 != 0) continue;
      const auto change = table_.change(id);
      table_[id].keeps_packed = random_() % 2 == 0;
      table_[id].crosses_packed = random_() % 3 != 0;
    }
    recount(table_);
    Lru::used(group, stream);
  }

 private:
  BlockTable& table_;
  std::mt19937 random_;
};

enum class Faults : bool { none, some };

struct Choice {
  std::string policy;
  bool threaded = false;
  Faults faults = Faults::none;
};

class Program {
 public:
  Program(Rig& rig, unsigned seed, const Choice& choice)
      : rig_(rig), device_(rig.device()), choice_(choice), random_(seed) {
    const Settings settings{.budget = most_budget, .block = block, .threaded = choice.threaded};
    residency_ = std::make_unique<Residency>(rig.device(), settings, [&](const View& view) {
      table_ = &view.table;
      if (choice.policy != "fickle") return make_strategy(choice.policy, view);
      return std::unique_ptr<Strategy>(std::make_unique<Fickle>(view, seed));
    });
    for (Piece& piece : pieces_) take_up(piece);
    pack();
    stream_ = rig.stream();
  }

  ~Program() {
    for (Piece& piece : pieces_) {
      try {
        if (piece.range.size > 0) residency_->forget(piece.range, false);
      } catch (const Error&) {
        // A failed test may have left a lease.
      }
    }
    residency_.reset();
    for (const Piece& piece : pieces_) device_.release(piece.range);
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps; ++i) {
      if (choice_.faults == Faults::some && random_() % 3 == 0) arm();
      try {
        step();
      } catch (const DeviceFailure&) {
        REQUIRE(choice_.faults == Faults::some);
      } catch (const OutOfMemory&) {
        // The budget is small just now, and all of it leased.
      } catch (const BadConfig&) {
        REQUIRE(!device_.traits().reads_over_link);  // which some advice needs
      }
      disarm();
      look();
    }
    end();
  }

  bool unpacked() const { return unpacked_; }

 private:
  static constexpr BlockId blocks_each = 10;
  struct Piece {
    Range range{};
    std::vector<std::vector<unsigned char>> bytes{};
    std::vector<GroupId> groups{};
  };

  Range at(const Piece& piece, BlockId i) const { return {piece.range.start + i * block, block}; }

  void take_up(Piece& piece) {
    piece.range = device_.reserve(blocks_each * block, Purpose::weights);
    piece.bytes.clear();
    for (BlockId i = 0; i < blocks_each; ++i) {
      piece.bytes.push_back(contents(random_));
      device_.store(at(piece, i).start, piece.bytes.back().data(), block);
    }
    residency_->adopt(piece.range, Purpose::weights, false);
    piece.groups.clear();
    for (BlockId i = 0; i < blocks_each; i += 2) {
      piece.groups.push_back(
          residency_->define(residency_->blocks_of({at(piece, i).start, 2 * block})));
    }
  }

  void pack() {
    std::vector<TypedRange> weights;
    for (const Piece& piece : pieces_) {
      weights.push_back(
          {.offset = piece.range.start, .size = piece.range.size, .type = Type::bf16});
    }
    residency_->pack(weights, nullptr);
  }

  void arm() {
    static constexpr std::array which{Operation::fetch, Operation::evict, Operation::map_host,
                                      Operation::pack};
    armed_ = rig_.faults(which[random_() % which.size()], Purpose::weights)[0];
    armed_->arm();
  }
  void disarm() {
    if (armed_) armed_->disarm();
    armed_.reset();
  }

  Piece& some_piece() { return pieces_[random_() % pieces_.size()]; }
  Blocks some(const Piece& piece) {
    const BlockId from = random_() % blocks_each;
    const BlockId count = 1 + random_() % std::min<BlockId>(3, blocks_each - from);
    return residency_->blocks_of({at(piece, from).start, count * block});
  }
  Blocks all(const Piece& piece) { return residency_->blocks_of(piece.range); }

  void step() {
    Piece& piece = some_piece();
    const unsigned choice = random_() % 100;
    if (choice < 40) {
      use(piece, random_() % (blocks_each / 2), random_() % 4 == 0);
    } else if (choice < 50) {
      pass();
    } else if (choice < 58) {
      residency_->prefetch(some(piece));
    } else if (choice < 66) {
      residency_->evict(some(piece), nullptr);
    } else if (choice < 72) {
      static constexpr std::array all_advice{Advice::read_mostly,    Advice::unset_read_mostly,
                                             Advice::preferred_host, Advice::unset_preferred,
                                             Advice::accessed_by,    Advice::unset_accessed_by};
      residency_->advise(some(piece), all_advice[random_() % all_advice.size()], nullptr);
    } else if (choice < 78) {
      write_on_host(piece, random_() % blocks_each);
    } else if (choice < 86) {
      const Bytes least = random_() % 4 == 0 ? least_budget : 12 * block;
      residency_->set_budget(least + random_() % (most_budget - least), nullptr);
    } else if (choice < 92) {
      pack();
    } else if (choice < 97) {
      work_with_scratch();
    } else {
      residency_->forget(piece.range, true);
      for (BlockId i = 0; i < blocks_each; ++i) REQUIRE(on_host(piece, i));
      device_.release(std::exchange(piece.range, {}));
      for (const GroupId group : piece.groups) residency_->undefine(group);
      take_up(piece);
    }
  }

  void use(Piece& piece, BlockId pair, bool writes) {
    const GroupId group = piece.groups[pair];
    residency_->acquire(group, stream_, nullptr);
    try {
      for (const BlockId i : {2 * pair, 2 * pair + 1}) {
        const Range where = seen(device_, at(piece, i));
        REQUIRE(std::memcmp(where.data(), piece.bytes[i].data(), block) == 0);
        if (!writes) continue;
        piece.bytes[i] = contents(random_);
        std::memcpy(where.data(), piece.bytes[i].data(), block);
        residency_->written(residency_->blocks_of(at(piece, i)), Place::card);
      }
    } catch (...) {
      residency_->release(group, stream_);
      throw;
    }
    residency_->release(group, stream_);
  }

  /// Of a steady cycle: some policies plan it.
  void pass() {
    for (Piece& piece : pieces_) {
      for (BlockId pair = 0; pair < blocks_each / 2; ++pair) use(piece, pair, false);
    }
  }

  void write_on_host(Piece& piece, BlockId i) {
    const auto write = [&] {
      REQUIRE(on_host(piece, i));
      piece.bytes[i] = contents(random_);
      device_.store(at(piece, i).start, piece.bytes[i].data(), block);
    };
    residency_->on_host(residency_->blocks_of(at(piece, i)), write, nullptr);
  }

  void work_with_scratch() {
    const Range range = device_.reserve((1 + random_() % 6) * block, Purpose::scratch);
    residency_->adopt(range, Purpose::scratch, true);
    const Blocks blocks = residency_->blocks_of(range);
    try {
      residency_->place(blocks, stream_, nullptr);
      look();
    } catch (const Error&) {
      residency_->forget(range, false);
      device_.release(range);
      throw;
    }
    residency_->let_die(blocks);
    residency_->forget(range, false);
    device_.release(range);
  }

  bool on_host(const Piece& piece, BlockId i) const {
    std::vector<unsigned char> found(block);
    device_.load(found.data(), at(piece, i).start, block);
    return found == piece.bytes[i];
  }

  void look() {
    const Stats stats = residency_->stats();
    REQUIRE(stats.leased == 0);
    unpacked_ = unpacked_ || stats.crossed_in < stats.moved_in;
    if (choice_.threaded) return;
    recount(*table_);
    // What a budget too small for staging left to it is given back by then.
    if (rig_.on_card() > residency_->budget()) throw check::Failed("beyond the budget");
    REQUIRE(rig_.on_card() <= stats.resident);
  }

  void end() {
    for (int twice = 0; twice < 2; ++twice) residency_->set_budget(most_budget, nullptr);
    recount(*table_);  // with every move over, those of unwanted copies too
    REQUIRE(residency_->stats().peak_resident <= most_budget);
    REQUIRE(rig_.peak_on_card() <= most_budget);
    for (Piece& piece : pieces_) {
      residency_->advise(all(piece), Advice::unset_accessed_by, nullptr);
      residency_->evict(all(piece), nullptr);
      for (BlockId i = 0; i < blocks_each; ++i) REQUIRE(on_host(piece, i));
      residency_->forget(piece.range, true);
      device_.release(std::exchange(piece.range, {}));
    }
    REQUIRE(rig_.on_card() == 0);
    REQUIRE(device_.packing()->staging() == 0);
  }

  Rig& rig_;
  const Flat& device_;
  Choice choice_;
  std::mt19937 random_;
  BlockTable* table_ = nullptr;
  std::unique_ptr<Residency> residency_;
  std::array<Piece, 4> pieces_;
  Stream stream_ = 0;
  std::optional<Fault> armed_;
  bool unpacked_ = false;
};

void runs(const Choice& choice) {
  constexpr auto when = Moment::latest;
  const std::array<SimulatedSpec, 3> cards{
      SimulatedSpec{.unpack_rate = 1e12, .moments = {.when = when}},
      {.host_addresses = false, .unpack_rate = 1e12, .moments = {.when = when}},
      {.unpack_rate = 1e12, .keeps_raw = false, .moments = {.when = when}}};
  for (const SimulatedSpec& card : cards) {
    for (unsigned seed = 1; seed <= 3; ++seed) {
      const auto rig = simulated(card);
      bool unpacked = false;
      try {
        Program program(*rig, seed, choice);
        program.run(100);
        unpacked = program.unpacked();
      } catch (const std::exception& error) {
        throw check::Failed(choice.policy + ", seed " + std::to_string(seed) + ": " + error.what());
      }
      REQUIRE(unpacked);
      REQUIRE(rig->close().empty());
    }
  }
}

}  // namespace

TEST("no program finds other bytes because of packed copies, and every sum is right") {
  for (const char* policy : {"fickle", "mru", "adaptive"}) runs({.policy = policy});
}

TEST("likewise where a thread of its own moves") {
  for (const char* policy : {"fickle", "adaptive"}) runs({.policy = policy, .threaded = true});
}

TEST("moves and packing that fail now and then lose no byte") {
  for (const bool threaded : {false, true}) {
    for (const char* policy : {"fickle", "mru", "adaptive"}) {
      runs({.policy = policy, .threaded = threaded, .faults = Faults::some});
    }
  }
}
