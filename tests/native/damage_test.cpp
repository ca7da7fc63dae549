// Packed weights that are damaged on the host: no use of them is wrong without an error that names
// them, and what comes after that error is right.
#include <cstring>
#include <random>

#include "base/error.hpp"
#include "check.hpp"
#include "packed.hpp"
#include "residency/residency.hpp"

using namespace vramx;
using namespace rig;

namespace {

std::string name_of(Bytes unit) { return "net." + std::to_string(unit) + ".weight"; }

/// A session of some blocks with packed copies, each a group.
class Session {
 public:
  Session(Rig& rig, Bytes count, const std::string& policy, bool threaded)
      : rig_(rig),
        weights(rig, count),
        stream_(rig.stream()),
        residency_(rig.device(),
                   {.budget = 64 * weights.size, .block = weights.size, .threaded = threaded},
                   [&](const View& view) { return make_strategy(policy, view); }) {
    residency_.adopt(weights.range, Purpose::weights, false);
    for (Bytes i = 0; i < count; ++i) {
      residency_.call(weights.unit(i), name_of(i));
      groups_.push_back(residency_.define(residency_.blocks_of(weights.unit(i)), "net"));
    }
    pack();
  }
  ~Session() {
    try {
      residency_.forget(weights.range, false);
    } catch (const Error&) {
      // A failed test may have left a lease.
    }
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void pack() {
    residency_.pack(
        {{.offset = weights.range.start, .size = weights.range.size, .type = Type::bf16}}, nullptr);
  }

  /// Uses a unit; returns what error named it, and "" where it was right and there was none.
  std::string use(Bytes unit) {
    bool right = false;
    try {
      residency_.acquire(groups_[unit], stream_, nullptr);
      rig_.synchronize(stream_);
      right = reads(weights, weights.unit(unit), weights.bytes.data() + unit * weights.size);
      residency_.release(groups_[unit], stream_);
    } catch (const Corrupted& error) {
      return error.what();
    }
    REQUIRE(right);
    return "";
  }

  /// How many uses of a pass over all were refused.
  unsigned pass() {
    unsigned refused = 0;
    for (Bytes i = 0; i < groups_.size(); ++i) refused += use(i).empty() ? 0 : 1;
    return refused;
  }

  Residency& residency() { return residency_; }

 private:
  Rig& rig_;

 public:
  Weights weights;

 private:
  Stream stream_;
  Residency residency_;
  std::vector<GroupId> groups_;
};

bool names(const std::string& error, Bytes unit) {
  return error.find(name_of(unit) + " (a block of ") != std::string::npos;
}

}  // namespace

TEST("a damaged packed copy is an error that names its weights, and the next use is right") {
  for (const bool real : {false, true}) {
    const auto rig = real ? mapped() : simulated({.unpack_rate = 1e12});
    {
      Session session(*rig, 4, "lru", false);
      REQUIRE(session.pass() == 0);
      session.residency().evict(session.residency().blocks_of(session.weights.range), nullptr);
      for (const Bytes unit : {2, 0}) {
        rig->damage(session.weights.unit(unit), 77);
        REQUIRE(names(session.use(unit), unit));
        REQUIRE(session.use(unit).empty());
        REQUIRE(session.pass() == 0);
        session.residency().evict(session.residency().blocks_of(session.weights.range), nullptr);
      }
      REQUIRE(session.residency().stats().packed_on_host > 0);
    }
    REQUIRE(rig->close().empty());
  }
}

TEST("what arrived damaged for a use that still goes on is an error until that ends") {
  const auto rig = simulated({.unpack_rate = 1e12});
  {
    Session session(*rig, 2, "lru", false);
    Residency& residency = session.residency();
    rig->damage(session.weights.unit(0), 1);
    const Blocks pinned = residency.blocks_of(session.weights.unit(0));
    residency.take(pinned, 0, false, nullptr);
    REQUIRE(names(session.use(1), 0));
    REQUIRE(session.use(0).find("are in use: " + name_of(0)) != std::string::npos);
    REQUIRE(session.use(1).empty());
    REQUIRE_THROWS(Corrupted, residency.give(pinned, 0, false));
    REQUIRE(residency.stats().leased == 0);
    REQUIRE(session.pass() == 0);
  }
  REQUIRE(rig->close().empty());
}

TEST("what nobody was told when a session closes is told then, and it is closed") {
  const auto rig = simulated({.unpack_rate = 1e12, .moments = {.when = Moment::latest}});
  {
    Session session(*rig, 1, "lru", false);
    rig->damage(session.weights.unit(0), 1);
    Residency& residency = session.residency();
    residency.prefetch(residency.blocks_of(session.weights.range));
    REQUIRE_THROWS(Corrupted, residency.close(nullptr));
    residency.close(nullptr);
    REQUIRE_THROWS(NotOpen, residency.prefetch({}));
  }
  REQUIRE(rig->close().empty());
}

TEST("whatever bits flip and whenever, no use is wrong without an error, and errors end") {
  for (const char* policy : {"lru", "mru", "adaptive"}) {
    for (const bool threaded : {false, true}) {
      for (const bool addresses : {true, false}) {
        std::mt19937_64 random(11);
        const auto rig = simulated({.host_addresses = addresses, .unpack_rate = 1e12});
        constexpr Bytes count = 24;
        unsigned refused = 0;
        {
          Session session(*rig, count, policy, threaded);
          session.residency().set_budget(14 * session.weights.size, nullptr);
          for (int round = 0; round < 12; ++round) {
            for (int flips = round % 4; flips > 0; --flips) {
              try {
                rig->damage(session.weights.unit(random() % count), random());
              } catch (const BadConfig&) {
                // That one is given up already.
              }
            }
            for (int passes = 0; passes < 3; ++passes) refused += session.pass();
            session.residency().evict(session.residency().blocks_of(session.weights.range),
                                      nullptr);
            for (int passes = 0; passes < 2; ++passes) session.pass();
            REQUIRE(session.pass() == 0);
            if (round % 5 == 4) session.pack();
          }
        }
        REQUIRE(refused > 0);
        REQUIRE(rig->close().empty());
      }
    }
  }
}
