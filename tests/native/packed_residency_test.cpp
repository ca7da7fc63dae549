// Residency with packed copies of weights: random programs on the simulated card and in mapped
// memory. The bytes are right, the budget holds, and the sums are what a count of the blocks says,
// after every step.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <random>

#include "base/error.hpp"
#include "check.hpp"
#include "packed.hpp"
#include "recount.hpp"
#include "residency/residency.hpp"
#include "strategy/lru.hpp"

using namespace vramx;
using namespace rig;

namespace {

/// Of several, as it comes.
const std::vector<unsigned char>& contents(Bytes block, std::mt19937& random) {
  static std::map<Bytes, std::vector<std::vector<unsigned char>>> made;
  auto& all = made[block];
  for (unsigned seed = 0; all.size() < 8; ++seed) all.push_back(normal(block, seed));
  return all[random() % all.size()];
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
  Bytes block = 64 * KiB;
  Bytes most_budget = 24;  ///< in blocks, as all budgets here
  Bytes least_budget = 5;  ///< below this packed bytes have no room to arrive in
};

class Program {
 public:
  Program(Rig& rig, unsigned seed, const Choice& choice)
      : rig_(rig), device_(rig.device()), choice_(choice), block_(choice.block), random_(seed) {
    const Settings settings{
        .budget = choice.most_budget * block_, .block = block_, .threaded = choice.threaded};
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

  Range at(const Piece& piece, BlockId i) const { return {piece.range.start + i * block_, block_}; }

  /// Where a lease has a block.
  Range seen(Range at) const {
    const Address host = device_.host_address(at.start);
    const bool there = host == 0 || residency_->on_card(residency_->blocks_of(at));
    return there ? at : Range{host, at.size};
  }

  void take_up(Piece& piece) {
    piece.range = device_.reserve(blocks_each * block_, Purpose::weights);
    piece.bytes.clear();
    for (BlockId i = 0; i < blocks_each; ++i) {
      piece.bytes.push_back(contents(block_, random_));
      device_.store(at(piece, i).start, piece.bytes.back().data(), block_);
    }
    residency_->adopt(piece.range, Purpose::weights, false);
    piece.groups.clear();
    for (BlockId i = 0; i < blocks_each; i += 2) {
      piece.groups.push_back(
          residency_->define(residency_->blocks_of({at(piece, i).start, 2 * block_})));
    }
  }

  /// All of some blocks is of a type, and of others the first part.
  void pack() {
    std::vector<TypedRange> weights;
    for (const Piece& piece : pieces_) {
      for (BlockId i = 0; i < blocks_each; ++i) {
        const Bytes size = i % 4 == 0 ? block_ : block_ / 4;
        weights.push_back({.offset = at(piece, i).start, .size = size, .type = Type::bf16});
      }
    }
    residency_->pack(weights, nullptr);
  }

  void arm() {
    static constexpr std::array which{Operation::fetch, Operation::evict, Operation::map_host,
                                      Operation::pack};
    auto faults = rig_.faults(which[random_() % which.size()], Purpose::weights);
    if (faults.empty()) return;
    armed_ = faults[random_() % faults.size()];
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
    return residency_->blocks_of({at(piece, from).start, count * block_});
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
      const Bytes most = choice_.most_budget * block_;
      const Bytes least = random_() % 4 == 0 ? choice_.least_budget * block_ : most / 2;
      residency_->set_budget(least + random_() % (most - least), nullptr);
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
        const Range where = seen(at(piece, i));
        REQUIRE(std::memcmp(where.data(), piece.bytes[i].data(), block_) == 0);
        if (!writes) continue;
        piece.bytes[i] = contents(block_, random_);
        std::memcpy(where.data(), piece.bytes[i].data(), block_);
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
      piece.bytes[i] = contents(block_, random_);
      device_.store(at(piece, i).start, piece.bytes[i].data(), block_);
    };
    residency_->on_host(residency_->blocks_of(at(piece, i)), write, nullptr);
  }

  void work_with_scratch() {
    const Range range = device_.reserve((1 + random_() % 6) * block_, Purpose::scratch);
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
    std::vector<unsigned char> found(block_);
    device_.load(found.data(), at(piece, i).start, block_);
    return found == piece.bytes[i];
  }

  /// With what is kept for later moves.
  Bytes card_bytes() const { return (*device_).memory(Purpose::weights).card_bytes(); }

  void look() {
    const Stats stats = residency_->stats();
    REQUIRE(stats.leased == 0);
    unpacked_ = unpacked_ || stats.crossed_in < stats.moved_in;
    if (choice_.threaded) return;
    recount(*table_);
    // What a budget too small for staging left to it is given back by then.
    if (rig_.on_card() > residency_->budget()) throw check::Failed("beyond the budget");
    REQUIRE(rig_.keeps_frames() || rig_.on_card() <= stats.resident);
    REQUIRE(card_bytes() <= residency_->budget());
  }

  void end() {
    const Bytes most = choice_.most_budget * block_;
    for (int twice = 0; twice < 2; ++twice) residency_->set_budget(most, nullptr);
    recount(*table_);  // with every move over, those of unwanted copies too
    REQUIRE(residency_->stats().peak_resident <= most);
    REQUIRE(rig_.peak_on_card() <= most);
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
  Bytes block_;
  std::mt19937 random_;
  BlockTable* table_ = nullptr;
  std::unique_ptr<Residency> residency_;
  std::array<Piece, 4> pieces_;
  Stream stream_ = 0;
  std::optional<Fault> armed_;
  bool unpacked_ = false;
};

void run(std::unique_ptr<Rig> rig, unsigned seed, const Choice& choice, unsigned steps) {
  bool unpacked = false;
  try {
    Program program(*rig, seed, choice);
    program.run(steps);
    unpacked = program.unpacked();
  } catch (const std::exception& error) {
    throw check::Failed(choice.policy + ", seed " + std::to_string(seed) + ": " + error.what());
  }
  REQUIRE(unpacked);
  if (const auto held = rig->close(); !held.empty()) throw check::Failed("still held: " + held);
}

void runs(const Choice& choice) {
  constexpr auto when = Moment::latest;
  const std::array<SimulatedSpec, 3> cards{
      SimulatedSpec{.unpack_rate = 1e12, .moments = {.when = when}},
      {.host_addresses = false, .unpack_rate = 1e12, .moments = {.when = when}},
      {.unpack_rate = 1e12, .keeps_raw = false, .moments = {.when = when}}};
  for (const SimulatedSpec& card : cards) {
    for (unsigned seed = 1; seed <= check::trials(2); ++seed) {
      run(simulated(card), seed, choice, 100);
    }
  }
}

/// In fewer steps: its blocks are large.
void runs_mapped(Choice choice) {
  choice.block = 2 * MiB;
  choice.most_budget = 44;
  for (unsigned seed = 1; seed <= check::trials(1); ++seed) run(mapped(), seed, choice, 40);
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

TEST("in mapped memory every byte is right too, and no more is held than the budget") {
  for (const bool threaded : {false, true}) {
    for (const char* policy : {"fickle", "adaptive"}) {
      runs_mapped({.policy = policy, .threaded = threaded});
    }
  }
}

TEST("what fails in mapped memory now and then loses no byte") {
  for (const bool threaded : {false, true}) {
    runs_mapped({.policy = "fickle", .threaded = threaded, .faults = Faults::some});
  }
}
