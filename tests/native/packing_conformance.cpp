// The contract of device/packing.hpp, held by every device that makes packed copies.
#include <algorithm>
#include <array>
#include <random>
#include <thread>

#include "base/error.hpp"
#include "check.hpp"
#include "packed.hpp"

using namespace vramx;
using namespace rig;

namespace {

/// Whether a fault is met by a call, which then throws.
template <typename Call>
bool met(const Fault& fault, Call call) {
  fault.arm();
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  fault.disarm();
  return false;
}

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
    REQUIRE(rig_.on_card() == expected);
  }

  Rig& rig_;
  Weights weights_;
  std::mt19937 random_;
  std::array<Stream, 2> streams_;
  std::array<Walked, units> all_;
  bool wrong_ = false;
};

}  // namespace

HOLDS("what does not shrink has no packed copy, and takes nothing of the card") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 1);
  REQUIRE(weights.packing.pack(weights.range, {}) == 0);
  REQUIRE(weights.packing.staging() == 0);
  REQUIRE(rig.on_card() == 0);
  const Bytes moved = rig.moved_in();
  for (Route* way : {&weights.packing.link(), &weights.packing.hold(), &weights.packing.unpack()}) {
    REQUIRE_THROWS(BadConfig, way->fetch(weights.range, FetchMode::duplicate, 0, {}));
  }
  REQUIRE(rig.on_card() == 0 && rig.moved_in() == moved);
}

HOLDS("packed weights arrive with the same bits by each way, and cross packed or not at all") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 3);
  Packing& packing = weights.packing;
  const Bytes size = weights.pack();
  REQUIRE(size > 0 && size < weights.range.size - weights.range.size / 20);
  const Bytes staging = packing.staging();
  REQUIRE(rig.on_card() == staging);
  Bytes crossed = rig.moved_in();
  const auto arrived = [&](Bytes more) {
    crossed += more;
    return rig.moved_in() == crossed && reads(weights, weights.bytes);
  };
  for (int pass = 0; pass < 2; ++pass) {
    weights.fetched(packing.link());
    REQUIRE(arrived(size));
    REQUIRE(rig.on_card() == staging + weights.range.size);
    weights.evicted(packing.link());
    weights.fetched(packing.hold());
    REQUIRE(rig.moved_in() == crossed + size);
    REQUIRE(rig.on_card() == staging + size);
    crossed += size;
    for (int again = 0; again < 2; ++again) {
      weights.fetched(packing.unpack());
      REQUIRE(arrived(0));
      REQUIRE(rig.on_card() == staging + size + weights.range.size);
      weights.evicted(packing.unpack());
    }
    weights.evicted(packing.hold());
    REQUIRE(rig.on_card() == staging);
  }
  REQUIRE(loaded(weights) == weights.bytes);
  packing.forget(weights.range);
  REQUIRE(packing.staging() == 0 && rig.on_card() == 0);
}

HOLDS("no order of packing, holding, unpacking, leaving, writing and forgetting changes a bit") {
  if (rig.device().packing() == nullptr) return;
  for (unsigned seed = 1; seed <= 4; ++seed) Walk(rig, seed).run(120);
}

HOLDS("what arrived unpacked may be written and written back, once its packed copy is forgotten") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 2);
  Packing& packing = weights.packing;
  for (Route* way : {&packing.link(), &packing.unpack()}) {
    weights.pack();
    if (way == &packing.unpack()) weights.fetched(packing.hold());
    weights.fetched(*way, FetchMode::move);
    if (way == &packing.unpack()) weights.evicted(packing.hold());
    packing.forget(weights.range);
    const auto after = normal(weights.range.size, 7);
    std::memcpy(weights.range.data(), after.data(), after.size());
    weights.evicted(*way, EvictMode::write_back);
    REQUIRE(loaded(weights) == after);
    REQUIRE_THROWS(BadConfig, packing.link().fetch(weights.range, FetchMode::duplicate, 0, {}));
    weights.pack();
    weights.fetched(packing.link());
    REQUIRE(reads(weights, after));
    weights.evicted(packing.link());
    packing.forget(weights.range);
    store(weights, weights.bytes);
  }
}

HOLDS("forgetting a part forgets the units that hold some of it") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 3);
  Packing& packing = weights.packing;
  weights.pack();
  packing.forget({weights.unit(1).start + 2, 2});
  for (const Range gone : {weights.unit(1), weights.range, weights.unit(0, 2)}) {
    REQUIRE_THROWS(BadConfig, packing.link().fetch(gone, FetchMode::duplicate, 0, {}));
    REQUIRE_THROWS(BadConfig, packing.hold().fetch(gone, FetchMode::duplicate, 0, {}));
  }
  REQUIRE(rig.on_card() == packing.staging());
  for (const Bytes kept : {0, 2}) {
    const Range unit = weights.unit(kept);
    rig.device().wait(packing.link().fetch(unit, FetchMode::duplicate, 0, {}));
    REQUIRE(reads(weights, unit, weights.bytes.data() + kept * weights.size));
  }
}

HOLDS("nothing packed arrives before what it waits for") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 1);
  Packing& packing = weights.packing;
  weights.pack();
  for (Route* way : {&packing.link(), &packing.hold(), &packing.unpack()}) {
    const Stream stream = rig.stream();
    rig.occupy(stream);
    const Fence after[] = {nullptr, weights.device.mark(stream)};
    const Fence arrival = way->fetch(weights.range, FetchMode::duplicate, 0, after);
    REQUIRE(!weights.device.reached(arrival));
    rig.finish(stream);
    weights.device.wait(arrival);
    REQUIRE(weights.device.reached(after[1]));
    if (way == &packing.link()) weights.evicted(packing.link());
  }
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("no packed copy leaves the card before its last use is over") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 1);
  Packing& packing = weights.packing;
  weights.pack();
  weights.fetched(packing.hold());
  const Stream stream = rig.stream();
  rig.occupy(stream);
  const Fence busy[] = {weights.device.mark(stream)};
  const Fence use[] = {packing.unpack().fetch(weights.range, FetchMode::duplicate, 0, busy)};
  Fence gone;
  std::thread leaving([&] { gone = packing.hold().evict(weights.range, EvictMode::drop, 0, use); });
  rig.finish(stream);
  leaving.join();
  weights.device.wait(gone);
  REQUIRE(weights.device.reached(use[0]));
  REQUIRE(rig.on_card() == packing.staging() + weights.range.size);
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("what is asked of packed copies and cannot be is refused, and nothing changes") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 2);
  Packing& packing = weights.packing;
  weights.pack();
  const auto refuses = [&](auto call) {
    const Bytes before[] = {rig.on_card(), rig.moved_in(), packing.staging()};
    REQUIRE_THROWS(BadConfig, call());
    REQUIRE(rig.on_card() == before[0] && rig.moved_in() == before[1]);
    REQUIRE(packing.staging() == before[2]);
  };
  const auto fetch = [&](Route& way, Range range) {
    return [&way, range] { way.fetch(range, FetchMode::duplicate, 0, {}); };
  };
  const auto evict = [&](Route& way, Range range) {
    return [&way, range] { way.evict(range, EvictMode::drop, 0, {}); };
  };
  const Address start = weights.range.start;
  const Range wrong[] = {{start + weights.size / 2, weights.size},
                         {start, weights.size / 2},
                         {start + weights.size, 2 * weights.size},
                         {start - weights.size, weights.size}};
  for (const Range range : wrong) {
    refuses([&] { weights.pack(range); });
    refuses(fetch(packing.link(), range));
    refuses(fetch(packing.hold(), range));
    refuses(evict(packing.hold(), range));
  }
  refuses(fetch(packing.unpack(), weights.range));  // there is none on the card
  refuses(evict(packing.hold(), weights.range));
  rig.device().wait(packing.hold().fetch(weights.unit(0), FetchMode::duplicate, 0, {}));
  refuses(fetch(packing.hold(), weights.range));    // the one is there
  refuses(fetch(packing.unpack(), weights.range));  // the other is not
  refuses(evict(packing.hold(), weights.range));
  rig.device().wait(packing.link().fetch(weights.unit(1), FetchMode::duplicate, 0, {}));
  refuses(fetch(packing.link(), weights.range));
  refuses(fetch(packing.unpack(), weights.unit(1)));
  rig.device().wait(packing.unpack().fetch(weights.unit(0), FetchMode::duplicate, 0, {}));
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("a failure leaves packed copies where they were, and the next call works") {
  if (rig.device().packing() == nullptr) return;
  const Weights weights(rig, 1);
  Packing& packing = weights.packing;
  // As `there` says before the call, whether it fails or is done again.
  const auto fails = [&](Operation operation, auto call, auto there) {
    const auto faults = rig.faults(operation, Purpose::weights);
    bool any = faults.empty();
    for (const Fault& fault : faults) {
      const Bytes before = rig.on_card();
      if (!met(fault, call)) {
        REQUIRE(operation != Operation::pack);
        there();
        continue;
      }
      any = true;
      if (rig.on_card() != before) throw check::Failed("moved by " + fault.name);
    }
    REQUIRE(any);
  };
  Bytes size = 0;
  fails(Operation::pack, [&] { size = weights.pack(); }, [] {});
  REQUIRE(size == 0);
  REQUIRE_THROWS(BadConfig, packing.link().fetch(weights.range, FetchMode::duplicate, 0, {}));
  weights.pack();
  for (Route* way : {&packing.link(), &packing.hold(), &packing.unpack()}) {
    fails(Operation::fetch, [&] { weights.fetched(*way); }, [&] { weights.evicted(*way); });
    weights.fetched(*way);
    if (way != &packing.hold()) {
      REQUIRE(reads(weights, weights.bytes));
      weights.evicted(*way);
    }
  }
  fails(
      Operation::evict, [&] { weights.evicted(packing.hold()); },
      [&] { weights.fetched(packing.hold()); });
  weights.fetched(packing.unpack());
  REQUIRE(reads(weights, weights.bytes));
}

HOLDS("threads pack and unpack ranges of their own at the same time") {
  if (rig.device().packing() == nullptr) return;
  std::vector<std::thread> threads;
  std::array<std::string, 3> wrong;
  for (unsigned i = 0; i < wrong.size(); ++i) {
    threads.emplace_back([&rig, &wrong, i] {
      for (unsigned turn = 0; turn < 4 && wrong[i].empty(); ++turn) {
        const Weights weights(rig, 1 + i % 2, i);
        Packing& packing = weights.packing;
        weights.pack();
        weights.fetched(packing.hold());
        for (Route* way : {&packing.unpack(), &packing.link()}) {
          weights.fetched(*way);
          if (!reads(weights, weights.bytes)) wrong[i] = "other bytes on the card";
          weights.evicted(*way);
        }
        weights.evicted(packing.hold());
        packing.forget(weights.range);
        if (loaded(weights) != weights.bytes) wrong[i] = "other bytes on the host";
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& each : wrong) REQUIRE(each.empty());
  REQUIRE(rig.on_card() == 0);
}

HOLDS("a range may be released with its packed copies on the card") {
  if (rig.device().packing() == nullptr) return;
  for (int again = 0; again < 2; ++again) {  // at the same addresses, if the system gives them
    const Weights weights(rig, 2);
    weights.pack();
    weights.packing.hold().fetch(weights.range, FetchMode::duplicate, 0, {});
    weights.packing.unpack().fetch(weights.unit(1), FetchMode::duplicate, 0, {});
  }
  REQUIRE(rig.on_card() == 0);
  REQUIRE(rig.device().packing()->staging() == 0);
}
