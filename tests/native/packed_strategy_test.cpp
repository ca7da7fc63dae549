// What the adaptive strategy makes of packed copies: marks in the table, what comes ahead, and
// that it neither takes turns with another plan nor keeps one that turns out slower.
#include <algorithm>
#include <atomic>

#include "check.hpp"
#include "device/packing.hpp"
#include "over_simulated.hpp"
#include "strategy/adaptive.hpp"

using namespace vramx;

namespace {

constexpr Bytes block = 64 * KiB;
constexpr Bytes packed_block = 44 * KiB;
constexpr std::size_t blocks = 48;
constexpr double rate = 1e9;
constexpr double crossing = static_cast<double>(block) / rate;
constexpr double unpacking_one = crossing / 10;

/// A card that is said to unpack, and never does.
class Unpacks final : public OverSimulated, private Packing {
 public:
  using OverSimulated::OverSimulated;
  bool unpacks = true;

  Packing* packing() override { return unpacks ? this : nullptr; }

 private:
  Bytes pack(Range /*piece*/, const std::vector<TypedRange>& /*types*/) override { return 0; }
  Bytes scratch(Bytes /*piece*/) const override { return 0; }
  void forget(Range /*range*/) noexcept override {}
  std::vector<Range> damaged() override { return {}; }
  Bytes staging() const override { return 0; }
  void trim() noexcept override {}
  double rate() const override { return static_cast<double>(block) / unpacking_one; }
  Route& hold() override { return *this; }
  Route& unpack() override { return *this; }
  Route& link() override { return *this; }
};

SimulatedSpec spec(bool keeps_raw) {
  SimulatedSpec spec;
  spec.keeps_raw = keeps_raw;
  spec.unpack_rate = rate;
  spec.capacity = 2 * blocks * block;
  spec.granule = block;
  spec.link.up = spec.link.down = rate;
  spec.latency = 0;
  return spec;
}

/// A strategy that is told of a cycle over blocks that stay where they are.
struct Told {
  Unpacks device;
  BlockTable table{block};
  std::atomic<Bytes> budget;
  std::size_t plans = 0;
  Adaptive adaptive;
  Range range;
  std::vector<GroupId> groups;

  explicit Told(std::size_t room, bool keeps_raw = true)
      : device(spec(keeps_raw)),
        budget(room * block + 1),
        adaptive({table, device, budget, block, [this](const Prediction&) { ++plans; }}),
        range(device.reserve(blocks * block, Purpose::weights)) {
    for (const BlockId id : table.add(range, Purpose::weights, Place::host, false, false)) {
      table[id].packed = table[id].packed_room = packed_block;
      groups.push_back(table.define({id}, ""));
    }
    adaptive.guess(groups);
    table.reserve(1);
    table.stage(1);  // there is room for packed bytes to arrive in
  }
  ~Told() { device.release(range); }
  Told(const Told&) = delete;
  Told& operator=(const Told&) = delete;

  bool unpacks() const {
    const auto plan = adaptive.plan();
    return plan && plan->predicted.unpacked > 0;
  }
  std::size_t kept_packed() {
    std::size_t count = 0;
    for (BlockId id = 0; id < blocks; ++id) count += table[id].keeps_packed ? 1 : 0;
    return count;
  }

  void pass(double stalled, double work) {
    for (const GroupId group : groups) {
      const bool timed = adaptive.wants_times();
      Fence asked = device.clock(0);
      adaptive.used(group, 0);
      device.card().compute(0, stalled / blocks);
      if (timed) adaptive.began({group}, std::move(asked), device.clock(0));
      device.card().compute(0, work / blocks);
    }
  }
};

/// Of a pass without a plan.
constexpr double streaming = blocks * crossing;

}  // namespace

TEST("what a plan keeps packed is marked so while it is in force, and told") {
  Told told(40);
  for (int i = 0; i < 4; ++i) told.pass(streaming, streaming / 100);
  const auto plan = told.adaptive.plan();
  REQUIRE(plan && plan->kept_packed > 0);
  REQUIRE(plan->kept_packed == told.kept_packed() * block);
  REQUIRE(plan->packed_copies == told.kept_packed() * packed_block);
  REQUIRE(plan->kept > 0 && plan->kept + plan->kept_packed <= plan->used);
  told.adaptive.forgets(0);
  REQUIRE(!told.adaptive.plan() && told.kept_packed() == 0);
}

TEST("what a plan streams raw crosses so while it is in force") {
  Told told(40);
  for (BlockId id = 0; id < blocks; id += 2) told.table[id].packed = 0;
  for (int i = 0; i < 4; ++i) told.pass(streaming, 10 * crossing);
  const auto raw = [&](BlockId id) { return !told.table[id].crosses_packed; };
  std::size_t crossing_raw = 0;
  for (BlockId id = 0; id < blocks; ++id) crossing_raw += raw(id) ? 1 : 0;
  REQUIRE(told.adaptive.plan() && crossing_raw > 0);
  told.adaptive.forgets(0);
  for (BlockId id = 0; id < blocks; ++id) REQUIRE(!raw(id));
}

TEST("a plan knows that what has a packed copy alone crosses packed, though it need not be soon") {
  for (const bool keeps_raw : {true, false}) {
    Told told(40, keeps_raw);
    for (int i = 0; i < 4; ++i) told.pass(streaming, 10 * streaming);
    const auto plan = told.adaptive.plan();
    REQUIRE(plan && plan->predicted.raw_in > 0);
    REQUIRE((plan->predicted.moved_in == plan->predicted.raw_in) == keeps_raw);
    REQUIRE(told.unpacks() == !keeps_raw);
    for (BlockId id = 0; id < blocks; ++id) {
      REQUIRE(keeps_raw || told.table[id].crosses_packed);
    }
  }
}

TEST("a store that does not unpack has plans without packed copies") {
  Told told(40);
  told.device.unpacks = false;
  for (int i = 0; i < 4; ++i) told.pass(streaming, streaming / 100);
  REQUIRE(told.adaptive.plan() && !told.unpacks() && told.kept_packed() == 0);
}

TEST(
    "a look ahead has room for the copies that are to stay, and leaves later unpacking for later") {
  Told told(24);
  for (int i = 0; i < 4; ++i) told.pass(streaming, streaming / 100);
  const auto taken = [&](const Blocks& wanted) {
    Bytes bytes = 0;
    for (const BlockId id : wanted) {
      const Block& each = told.table[id];
      bytes += block + (each.keeps_packed && !each.packed_on_card ? each.packed : 0);
    }
    return bytes;
  };
  REQUIRE(told.kept_packed() > 0 && told.kept_packed() < blocks);
  const Blocks first = told.adaptive.ahead().wanted;
  REQUIRE(!first.empty() && taken(first) <= told.budget);
  for (BlockId id = 0; id < blocks; ++id) {
    if (told.table[id].keeps_packed) told.table[id].packed_on_card = true;
  }
  const Blocks then = told.adaptive.ahead().wanted;
  std::size_t unpacked = 0;
  for (const BlockId id : then) unpacked += told.table[id].keeps_packed ? 1 : 0;
  REQUIRE(unpacked <= 2 && then.size() > unpacked);
}

TEST("a plan that unpacks stays, whatever part of that is in the times measured under it") {
  for (const double part : {0.2, 0.4, 0.6}) {
    for (const double contained : {0.0, 0.5, 1.0}) {
      Told told(40);
      const double work = part * 12 * crossing;
      for (int i = 0; i < 4; ++i) told.pass(streaming, work);
      REQUIRE(told.unpacks());
      const Prediction first = told.adaptive.plan()->predicted;
      const double slowed = contained * static_cast<double>(first.unpacked) / block * unpacking_one;
      const std::size_t plans = told.plans;
      for (int i = 0; i < 200; ++i) {
        told.pass(std::max(0.0, first.seconds - work - slowed), work + slowed);
      }
      // Once at most, where the link hides some of the work and of the unpacking.
      REQUIRE(told.plans <= plans + 1 && told.unpacks());
      REQUIRE(told.adaptive.plan()->predicted.seconds <= 1.01 * first.seconds);
    }
  }
}

TEST("a plan whose unpacking slows the work by more than it saves is left for one that is raw") {
  for (const bool raw_is_slow : {false, true}) {
    Told told(40);
    const double work = streaming / 10;
    const double stalled = streaming / 20;
    for (int i = 0; i < 4; ++i) told.pass(stalled, work);
    REQUIRE(told.unpacks());
    // No other plan while it is on trial.
    for (int i = 0; i < 200 && told.unpacks(); ++i) told.pass(0, 4 * work);
    REQUIRE(told.adaptive.plan() && !told.unpacks() && told.kept_packed() == 0);
    for (int i = 0; i < 200; ++i) {
      const bool plans = told.adaptive.plan().has_value();
      REQUIRE(!told.unpacks() && (plans || raw_is_slow));
      told.pass(plans && raw_is_slow ? 2 * streaming : stalled, work);
    }
    REQUIRE(told.adaptive.plan().has_value() == !raw_is_slow);
    told.adaptive.budget_changed();
    for (int i = 0; i < 8 && !told.unpacks(); ++i) told.pass(stalled, work);
    REQUIRE(told.unpacks());
  }
}
