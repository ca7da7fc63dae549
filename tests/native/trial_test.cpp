// A plan that turns out slower than plain streaming is left, and comes back when it would pay.
#include "strategy/trial.hpp"

#include <functional>

#include "check.hpp"
#include "over_simulated.hpp"
#include "residency/residency.hpp"
#include "strategy/strategy.hpp"

using namespace vramx;

namespace {

constexpr Bytes block = 64 * KiB;
constexpr std::size_t blocks = 12;
constexpr double rate = 1e9;
constexpr double block_seconds = static_cast<double>(block) / rate;

/// A card on which to leave by a plan costs a write-back, which nobody can know beforehand; or one
/// that idles while times are read, as it does while a program that gives it no work ahead plans.
class CostlyByPlan final : public OverSimulated {
 public:
  using OverSimulated::OverSimulated;

  std::function<bool()> planned;  ///< whether a plan is in force
  std::size_t left_by_plan = 0;
  bool costly = true;
  double idles_a_reading = 0;  ///< seconds

  Fence evict(Range range, EvictMode how, Lane lane, Fences after) override {
    const bool by_plan = how == EvictMode::drop && planned();
    left_by_plan += by_plan ? 1 : 0;
    const bool dear = by_plan && costly;
    return OverSimulated::evict(range, dear ? EvictMode::write_back : how, lane, after);
  }
  double seconds(const Fence& from, const Fence& to) const override {
    if (idles_a_reading > 0) card().compute(0, idles_a_reading);
    return OverSimulated::seconds(from, to);
  }
};

/// A cycle over all blocks, in half the memory.
struct Cycle {
  std::shared_ptr<CostlyByPlan> device;
  std::unique_ptr<Residency> residency;
  Range range;
  std::vector<GroupId> groups;

  Cycle() {
    SimulatedSpec spec;
    spec.capacity = 2 * blocks * block;
    spec.granule = block;
    spec.link.up = rate;
    spec.link.down = rate / 20;
    spec.latency = 0;
    device = std::make_shared<CostlyByPlan>(spec);
    Settings settings;
    settings.budget = blocks / 2 * block;
    settings.block = block;
    settings.threaded = false;
    residency = std::make_unique<Residency>(
        device, settings, [](const View& view) { return make_strategy("adaptive", view); });
    device->planned = [this] { return residency->plan().has_value(); };
    range = device->reserve(blocks * block, Purpose::weights);
    residency->adopt(range, Purpose::weights, false);
    for (BlockId id = 0; id < blocks; ++id) groups.push_back(residency->define({id}));
    residency->guess(groups);
  }
  ~Cycle() {
    residency->forget(range, false);
    residency.reset();
    device->release(range);
  }

  /// A pass; returns its virtual seconds.
  double pass(double work = 0.2) {
    const double began = device->card().now();
    for (const GroupId group : groups) {
      residency->acquire(group, 0, nullptr);
      device->card().compute(0, work * block_seconds);
      residency->release(group, 0);
    }
    return device->card().now() - began;
  }
};

}  // namespace

TEST("a plan that is slower than plain streaming is left") {
  Cycle cycle;
  cycle.pass();
  const double streamed = cycle.pass();
  for (int i = 0; i < 30; ++i) cycle.pass();
  REQUIRE(cycle.device->left_by_plan > 0);
  cycle.device->left_by_plan = 0;
  for (int i = 0; i < 60; ++i) REQUIRE(cycle.pass() <= 1.05 * streamed);
  REQUIRE(cycle.device->left_by_plan == 0);
}

TEST("a plan that is faster stays, however often it is looked at") {
  Cycle cycle;
  cycle.device->costly = false;
  cycle.pass();
  const double streamed = cycle.pass();
  for (int i = 0; i < 10; ++i) cycle.pass();
  for (int i = 0; i < 600; ++i) REQUIRE(cycle.pass() < 0.75 * streamed);
}

TEST("the time that planning takes does not count against the plan") {
  Cycle cycle;
  cycle.device->costly = false;
  cycle.pass();
  const double streamed = cycle.pass();
  cycle.device->idles_a_reading = block_seconds;
  for (int i = 0; i < 10; ++i) cycle.pass();
  cycle.device->idles_a_reading = 0;
  cycle.pass();
  for (int i = 0; i < 10; ++i) REQUIRE(cycle.pass() < 0.75 * streamed);
}

TEST("a plan is not left because the first passes, without it, worked longer") {
  Cycle usual;
  usual.device->costly = false;
  for (int i = 0; i < 10; ++i) usual.pass();
  const double planned = usual.pass();
  Cycle cycle;
  cycle.device->costly = false;
  for (const double work : {20.0, 4.0, 2.0, 0.2}) cycle.pass(work);
  cycle.pass();  // the plan knew the long work
  for (int i = 0; i < 20; ++i) REQUIRE(cycle.pass() <= 1.05 * planned);
}

TEST("longer work counts as hidden stalls, and shorter work does not") {
  for (const double work : {0.5, 1.0, 3.0}) {
    Trial trial;
    trial.streamed(1.0, work);
    bool left = false;
    for (int i = 0; i < 100 && !left; ++i) left = trial.leaves_plan(2.5, 1.0, 10, 0);
    REQUIRE(left == (work < 3.0));
  }
}

TEST("longer work counts as a stall as far as unpacking may have made it longer") {
  for (const double unpacking : {0.0, 0.1, 1.0}) {
    Trial trial;
    trial.streamed(1.0, 1.0);
    bool left = false;
    for (int i = 0; i < 100 && !left; ++i) left = trial.leaves_plan(0.0, 3.0, 10, unpacking);
    REQUIRE(left == (unpacking == 1.0));
    if (left) REQUIRE(trial.stays_left(1.0, 1.0, 10));
  }
}

TEST("a budget that changes gives the plan another chance") {
  Cycle cycle;
  for (int i = 0; i < 40; ++i) cycle.pass();
  cycle.device->costly = false;
  cycle.device->left_by_plan = 0;
  cycle.residency->set_budget((blocks / 2 + 1) * block, nullptr);
  for (int i = 0; i < 10; ++i) cycle.pass();
  REQUIRE(cycle.device->left_by_plan > 0);
}

TEST("times that differ now and then neither leave a plan nor bring one back") {
  Trial trial;
  trial.streamed(1.0, 1.0);
  for (int i = 0; i < 1000; ++i) REQUIRE(!trial.leaves_plan(i % 3 == 0 ? 0.9 : 1.3, 1.0, 10, 0));
  REQUIRE(!trial.left());
}

TEST("each time it takes longer to leave a plan than the time before") {
  Trial trial;
  trial.streamed(1.0, 1.0);
  int before = 0;
  for (int times = 0; times < 5; ++times) {
    int passes = 1;
    while (!trial.leaves_plan(2.0, 1.0, 10, 0)) ++passes;
    REQUIRE(passes > before);
    before = passes;
    REQUIRE(trial.stays_left(1.0, 1.0, 10));
    REQUIRE(trial.stays_left(1.0, 0.5, 10));
    REQUIRE(!trial.stays_left(2.0, 1.0, 10));
    REQUIRE(!trial.stays_left(1.0, 1.0, 11));
    REQUIRE(!trial.stays_left(1.0, 2.0, 10));
    trial.take_up();
  }
}
