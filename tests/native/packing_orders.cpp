// Packed copies on every device that makes them, in any order of what may be asked: one seed, one
// order.
#include <array>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "check.hpp"
#include "packed.hpp"

using namespace vramx;
using namespace rig;

namespace {

/// A unit of weights in a random walk. Nothing of it is waited for but by fences.
struct Walked {
  std::vector<unsigned char> bytes;
  bool packed = false, held = false, raw = false, written = false;
  Bytes size = 0;           ///< packed
  Fence moved;              ///< the raw copy, at last
  std::vector<Fence> uses;  ///< of the packed copy on the card, and its own moves
};

class Walk {
 public:
  Walk(Rig& rig, unsigned seed)
      : rig_(rig), weights_(rig, units, seed), random_(seed), streams_{rig.stream(), rig.stream()} {
    for (Bytes i = 0; i < units; ++i) {
      const auto from = weights_.bytes.begin() + static_cast<std::ptrdiff_t>(i * weights_.size);
      all_[i].bytes.assign(from, from + static_cast<std::ptrdiff_t>(weights_.size));
    }
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps; ++i) {
      // Some in a row of one unit, so that little of the last is done when the next is asked.
      const Bytes unit = random_() % units;
      for (auto row = random_() % 4; row != 0; --row) step(unit);
      if (random_() % 8 == 0) look();
    }
    for (Bytes i = 0; i < units; ++i) {
      if (all_[i].raw) leave(i);
      if (all_[i].held) let_go(i);
    }
    look();
    REQUIRE(!wrong_);
    for (Bytes i = 0; i < units; ++i) {
      std::vector<unsigned char> found(weights_.size);
      device().load(found.data(), weights_.unit(i).start, found.size());
      REQUIRE(found == all_[i].bytes);
    }
  }

 private:
  static constexpr Bytes units = 3;

  const Flat& device() const { return weights_.device; }
  Lane lane() { return static_cast<Lane>(random_() % device().facts().lanes); }

  void step(Bytes i) {
    Walked& unit = all_[i];
    const Range range = weights_.unit(i);
    Packing& packing = weights_.packing;
    if (unit.raw) {
      if (!unit.held && random_() % 3 == 0) return write(i);
      if (random_() % 3 != 0) return leave(i);
    } else if (unit.packed && random_() % 2 == 0) {
      Route& way = unit.held ? packing.unpack() : packing.link();
      unit.moved = way.fetch(range, FetchMode::duplicate, lane(), {&unit.moved, 1});
      unit.uses.push_back(unit.moved);
      unit.raw = true;
      return;
    } else if (random_() % 8 == 0) {
      unit.moved = device().fetch(range, FetchMode::duplicate, lane(), {&unit.moved, 1});
      unit.raw = true;
      return;
    }
    if (!unit.packed) {
      if (!unit.raw) pack(i);
    } else if (unit.held) {
      let_go(i);
    } else if (random_() % 4 == 0) {
      write(i);
    } else {
      unit.uses = {packing.hold().fetch(range, FetchMode::duplicate, lane(), unit.uses)};
      unit.held = true;
    }
  }

  void pack(Bytes i) {
    device().wait(all_[i].moved);  // the bytes are on the host
    all_[i].size = weights_.pack(weights_.unit(i));
    all_[i].packed = true;
    REQUIRE(all_[i].size > 0 && all_[i].size < weights_.size);
  }

  void let_go(Bytes i) {
    Walked& unit = all_[i];
    unit.uses = {
        weights_.packing.hold().evict(weights_.unit(i), EvictMode::drop, lane(), unit.uses)};
    unit.held = false;
  }

  /// Where the raw copy is, by the processor or a kernel. The packed copy is no more.
  void write(Bytes i) {
    Walked& unit = all_[i];
    for (const Fence& use : unit.uses) device().wait(use);
    weights_.packing.forget(weights_.unit(i));
    unit.packed = false;
    unit.bytes = normal(weights_.size, static_cast<unsigned>(random_()));
    if (!unit.raw) {
      device().store(weights_.unit(i).start, unit.bytes.data(), weights_.size);
      return;
    }
    unit.written = true;
    use(i, [range = weights_.unit(i), bytes = unit.bytes] {
      std::memcpy(range.data(), bytes.data(), range.size);
    });
  }

  /// A kernel on some stream.
  void use(Bytes i, std::function<void()> work) {
    const Stream stream = streams_[random_() % streams_.size()];
    device().order(stream, all_[i].moved);
    rig_.launch(stream, weights_.unit(i), std::move(work));
    all_[i].moved = device().mark(stream);
  }

  void leave(Bytes i) {
    Walked& unit = all_[i];
    use(i, [this, range = weights_.unit(i), bytes = unit.bytes] {
      wrong_ = wrong_ || std::memcmp(range.data(), bytes.data(), range.size) != 0;
    });
    std::array<Route*, 3> ways{&weights_.packing.link(), &weights_.packing.unpack(),
                               &(*device()).memory(Purpose::weights).link()};
    unit.moved = ways[random_() % ways.size()]->evict(
        weights_.unit(i), unit.written ? EvictMode::write_back : EvictMode::drop, lane(),
        {&unit.moved, 1});
    unit.raw = unit.written = false;
  }

  /// Waits for all, and counts.
  void look() {
    Bytes expected = weights_.packing.staging();
    for (const Walked& unit : all_) {
      device().wait(unit.moved);
      for (const Fence& use : unit.uses) device().wait(use);
      expected += (unit.raw ? weights_.size : 0) + (unit.held ? unit.size : 0);
    }
    REQUIRE(weights_.takes(expected));
  }

  Rig& rig_;
  Weights weights_;
  std::mt19937 random_;
  std::array<Stream, 2> streams_;
  std::array<Walked, units> all_;
  bool wrong_ = false;
};

}  // namespace

HOLDS("no order of packing, holding, unpacking, leaving, writing and forgetting changes a bit") {
  if (!rig.packs()) return;
  for (unsigned seed = 1; seed <= check::trials(2); ++seed) Walk(rig, seed).run(120);
}
