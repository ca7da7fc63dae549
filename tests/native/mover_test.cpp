// The mover: order, outcomes, and whose thread does the work.
#include "mover/mover.hpp"

#include <algorithm>
#include <atomic>

#include "check.hpp"
#include "fake_device.hpp"

using namespace vramx;

namespace {

using Log = std::vector<std::string>;
using Starts = std::vector<Address>;

/// A mover over a fake device, and what its jobs came to, by the order in which they ended.
struct Bench {
  explicit Bench(bool threaded) : mover(std::make_unique<Mover>(device, threaded)) {}

  /// Ranges lie at these addresses and are one byte long.
  Job job(const Starts& evictions, const Starts& arrivals, bool unmap_host = false) const {
    Job job;
    job.evictions.resize(evictions.size());
    job.fetches.resize(arrivals.size());
    for (std::size_t i = 0; i < evictions.size(); ++i) {
      job.evictions[i].route = device.get();
      job.evictions[i].range = {evictions[i], 1};
    }
    for (std::size_t i = 0; i < arrivals.size(); ++i) {
      job.fetches[i].route = device.get();
      job.fetches[i].range = {arrivals[i], 1};
      job.fetches[i].host_mapped_in = unmap_host ? device.get() : nullptr;
    }
    job.done = [](const Outcome&) {};
    return job;
  }

  void submit(Job job) {
    job.done = [this](const Outcome& outcome) {
      {
        const std::lock_guard lock(mutex);
        outcomes.push_back(outcome);
      }
      changed.notify_all();
    };
    mover->submit(std::move(job));
  }

  void submit(const Starts& evictions, const Starts& arrivals, bool unmap_host = false) {
    submit(job(evictions, arrivals, unmap_host));
  }

  /// Returns once `count` jobs have ended.
  std::vector<Outcome> finish(std::size_t count) {
    mover->pump();
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return outcomes.size() >= count; });
    return outcomes;
  }

  std::shared_ptr<FakeDevice> device = std::make_shared<FakeDevice>();
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Outcome> outcomes;
  std::unique_ptr<Mover> mover;
};

bool failed_with(const Outcome& outcome, const std::string& what) {
  if (!outcome.error) return false;
  try {
    std::rethrow_exception(outcome.error);
  } catch (const DeviceFailure& error) {
    return error.what() == what;
  }
}

}  // namespace

TEST("jobs run first in, first out, each one's evictions before its arrivals") {
  for (const bool threaded : {false, true}) {
    Bench bench(threaded);
    bench.submit({100, 110}, {200});
    bench.submit({}, {210, 220});
    bench.submit({120}, {});
    const auto outcomes = bench.finish(3);
    const Log log = bench.device->log();
    REQUIRE(log.size() == 6);
    const char* expected[] = {"evict 100", "evict 110", "fetch 200",
                              "fetch 210", "fetch 220", "evict 120"};
    for (std::size_t i = 0; i < log.size(); ++i) REQUIRE(log[i].starts_with(expected[i]));
    REQUIRE(outcomes[0].evicted == 2 && outcomes[0].arrivals.size() == 1 && !outcomes[0].error);
    REQUIRE(outcomes[1].evicted == 0 && outcomes[1].arrivals.size() == 2 && !outcomes[1].error);
    REQUIRE(outcomes[2].evicted == 1 && outcomes[2].arrivals.empty() && !outcomes[2].error);
  }
}

TEST("what arrives waits for all that left before it, on whatever lane") {
  Bench bench(false);
  bench.submit({100, 110}, {200});
  bench.submit({120}, {});
  bench.submit({}, {210});
  bench.submit({}, {220, 230});
  bench.finish(4);
  const Log log = bench.device->log();
  REQUIRE(log[2] == "fetch 200+1 lane 0 after evict 100,evict 110");
  REQUIRE(log[4] == "fetch 210+1 lane 1 after evict 100,evict 110,evict 120");
  REQUIRE(log[5] == "fetch 220+1 lane 0 after evict 120,fetch 200");
  REQUIRE(log[6] == "fetch 230+1 lane 1 after fetch 210");
}

TEST("an eviction waits for the uses that it was given") {
  Bench bench(false);
  Job job = bench.job({100}, {});
  job.evictions[0].after = {nullptr, bench.device->fetch({7, 1}, {}, 0, {})};
  bench.submit(std::move(job));
  bench.finish(1);
  REQUIRE(bench.device->log().back() == "evict 100+1 lane 0 after -,fetch 7");
}

TEST("neighbours of one kind move in one request, and each has its outcome") {
  Bench bench(false);
  Job job = bench.job({100, 101, 102, 104}, {200, 201, 203, 202});
  job.evictions[1].after = {bench.device->fetch({7, 1}, {}, 0, {})};
  job.evictions[2].how = EvictMode::write_back;
  bench.submit(std::move(job));
  const Outcome outcome = bench.finish(1)[0];
  const Log log = bench.device->log();
  REQUIRE(log.size() == 7);
  REQUIRE(log[1] == "evict 100+2 lane 0 after fetch 7");
  REQUIRE(log[2].starts_with("evict 102+1") && log[3].starts_with("evict 104+1"));
  REQUIRE(log[4].starts_with("fetch 200+2") && log[5].starts_with("fetch 203+1"));
  REQUIRE(log[6].starts_with("fetch 202+1"));
  REQUIRE(outcome.evicted == 4 && outcome.arrivals.size() == 4);
  REQUIRE(outcome.arrivals[0] == outcome.arrivals[1]);
  REQUIRE(outcome.arrivals[1] != outcome.arrivals[2]);
}

TEST("neighbours in different reserved ranges move on their own") {
  Bench bench(false);
  Job job = bench.job({100, 101}, {200, 201});
  job.evictions[1].home = job.fetches[1].home = 101;
  bench.submit(std::move(job));
  bench.finish(1);
  const Log log = bench.device->log();
  REQUIRE(log.size() == 4);
  REQUIRE(log[0].starts_with("evict 100+1") && log[2].starts_with("fetch 200+1"));
}

TEST("arrivals take the lanes by turns") {
  Bench bench(false);
  for (const Address start : {200, 210, 220}) bench.submit({}, {start});
  bench.finish(3);
  const Log log = bench.device->log();
  REQUIRE(log[0].starts_with("fetch 200+1 lane 0"));
  REQUIRE(log[1].starts_with("fetch 210+1 lane 1"));
  REQUIRE(log[2].starts_with("fetch 220+1 lane 0"));
}

TEST("what comes on a lane comes after what the lane fetched before, by whichever route") {
  Bench bench(false);
  FakeDevice other;
  bench.submit({}, {200});
  Job job = bench.job({}, {210, 220});
  job.fetches[1].route = &other;
  bench.submit(std::move(job));
  bench.finish(2);
  REQUIRE(other.log() == Log{"fetch 220+1 lane 0 after fetch 200"});
}

TEST("an eviction that fails stops its job, which says how many had left") {
  for (const bool threaded : {false, true}) {
    Bench bench(threaded);
    bench.device->fail_at(110);
    bench.submit({100, 110, 120}, {200});
    const Outcome outcome = bench.finish(1)[0];
    REQUIRE(outcome.evicted == 1);
    REQUIRE(outcome.arrivals.empty() && outcome.unmapped == 0);
    REQUIRE(failed_with(outcome, "evict 110 fails"));
    REQUIRE(bench.device->log().size() == 2);
  }
}

TEST("an arrival that fails says which are under way, and its evictions are carried out") {
  Bench bench(false);
  bench.device->fail_at(210);
  bench.submit({100}, {200, 210, 220});
  const Outcome outcome = bench.finish(1)[0];
  REQUIRE(outcome.evicted == 1 && outcome.arrivals.size() == 1);
  REQUIRE(failed_with(outcome, "fetch 210 fails"));
}

TEST("ranges that are mapped for the card are unmapped before they are fetched") {
  Bench bench(false);
  bench.submit({100}, {200, 210}, true);
  const Outcome outcome = bench.finish(1)[0];
  REQUIRE(outcome.unmapped == 2 && outcome.arrivals.size() == 2);
  const Log log = bench.device->log();
  REQUIRE(log.size() == 5);
  REQUIRE(log[1].starts_with("unmap_host 200") && log[2].starts_with("unmap_host 210"));
}

TEST("a range that cannot be unmapped is not fetched") {
  Bench bench(false);
  bench.device->fail_at(210);
  bench.submit({}, {200, 210}, true);
  const Outcome outcome = bench.finish(1)[0];
  REQUIRE(outcome.unmapped == 1 && outcome.arrivals.empty());
  REQUIRE(failed_with(outcome, "unmap_host 210 fails"));
}

TEST("the job after a failed one works") {
  for (const bool threaded : {false, true}) {
    Bench bench(threaded);
    bench.device->fail_at(200);
    bench.submit({}, {200});
    bench.finish(1);
    bench.device->fail_at(0);
    bench.submit({100}, {200});
    const Outcome outcome = bench.finish(2)[1];
    REQUIRE(outcome.evicted == 1 && outcome.arrivals.size() == 1 && !outcome.error);
  }
}

TEST("queued jobs that fetch something can be taken back, others and begun ones are carried out") {
  for (const bool threaded : {false, true}) {
    Bench bench(threaded);
    bench.device->shut();
    bench.submit({100}, {200});
    if (threaded) bench.device->await_arrival();
    for (const std::uint64_t number : {7, 8, 9}) {
      Job job = number == 8 ? bench.job({120}, {}) : bench.job({110}, {210});
      job.number = number;
      bench.submit(std::move(job));
    }
    std::vector<std::uint64_t> taken;
    for (const auto& [number, outcome] : bench.mover->take_back()) {
      REQUIRE(outcome.evicted == 0);
      taken.push_back(number);
    }
    if (!threaded) taken.erase(taken.begin());  // none had begun
    bench.device->open();
    bench.finish(threaded ? 2 : 1);
    REQUIRE(taken == (std::vector<std::uint64_t>{7, 9}));
    const Log log = bench.device->log();
    REQUIRE(log.back().starts_with("evict 120") && log.size() == (threaded ? 3 : 1));
  }
}

/// A mover with both lanes taken and a job that waits for one of them; one more behind it, and one
/// whose bytes are on the card packed.
struct Waiting : Bench {
  Waiting() : Bench(true) {
    device->hold_arrivals();
    submit({}, {200, 210});
    submit({}, {220});
    Job behind = job({120}, {230});
    behind.number = 7;
    submit(std::move(behind));
    Job unpacks = job({}, {300});
    unpacks.fetches[0].route = &device->unpack();
    submit(std::move(unpacks));
  }
};

TEST("what is on the card in another form does not wait for a lane, but for the room before it") {
  Waiting bench;
  bench.device->await("unpack 300");
  bench.device->let_arrive();
  const auto outcomes = bench.finish(4);
  const Log log = bench.device->log();
  REQUIRE(log.size() == 6);
  REQUIRE(log[2].starts_with("evict 120") && log[3] == "unpack 300+1 after evict 120");
  REQUIRE(log[4].starts_with("fetch 220") && log[5].starts_with("fetch 230"));
  REQUIRE(outcomes.back().evicted == 1 && outcomes.back().freed.size() == 1);
}

TEST("a job does not overtake one whose eviction fails") {
  Waiting bench;
  bench.device->await("unpack 300");
  bench.device->fail_at(130);
  Job fails = bench.job({130}, {240});
  bench.submit(std::move(fails));
  Job unpacks = bench.job({}, {310});
  unpacks.fetches[0].route = &bench.device->unpack();
  bench.submit(std::move(unpacks));
  bench.device->await("evict 130");
  bench.device->let_arrive();
  const auto outcomes = bench.finish(6);
  const Log log = bench.device->log();
  REQUIRE(log.back().starts_with("unpack 310") && log[log.size() - 2].starts_with("fetch 230"));
  REQUIRE(failed_with(outcomes[4], "evict 130 fails") && outcomes[4].evicted == 0);
  REQUIRE(!outcomes[5].error);
  const auto again = [](const std::string& call) { return call.starts_with("evict 130"); };
  REQUIRE(std::ranges::count_if(log, again) == 1);
}

TEST("of a job that was overtaken and is taken back its evictions are told") {
  Waiting bench;
  bench.device->await("unpack 300");
  auto taken = bench.mover->take_back();
  while (taken.empty()) taken = bench.mover->take_back();  // it is being put back
  bench.device->let_arrive();
  bench.finish(3);
  REQUIRE(taken.size() == 1 && taken[0].first == 7 && taken[0].second.evicted == 1);
  REQUIRE(bench.device->log().back().starts_with("fetch 220"));
}

TEST("the end waits for what was overtaken, and for what overtakes then") {
  Waiting bench;
  bench.device->await("unpack 300");
  std::thread ending([&] { bench.mover.reset(); });
  bench.device->let_arrive();
  ending.join();
  REQUIRE(bench.outcomes.size() == 4);
  for (const Outcome& each : bench.outcomes) REQUIRE(!each.error);
  REQUIRE(bench.device->log().back().starts_with("fetch 230"));
}

TEST("a job that overtakes and fails is told alone, and those before it are carried out") {
  Waiting bench;
  bench.device->await("unpack 300");
  bench.device->fail_at(310);
  Job fails = bench.job({}, {310});
  fails.fetches[0].route = &bench.device->unpack();
  bench.submit(std::move(fails));
  bench.device->await("unpack 310");
  bench.device->let_arrive();
  const auto outcomes = bench.finish(5);
  REQUIRE(failed_with(outcomes[2], "unpack 310 fails") && outcomes[2].arrivals.empty());
  for (const std::size_t other : {0, 1, 3, 4}) REQUIRE(!outcomes[other].error);
  REQUIRE(bench.device->log().back().starts_with("fetch 230"));
}

TEST("without a thread nothing moves before pump, and then on its caller's thread") {
  Bench bench(false);
  bench.submit({100}, {200});
  REQUIRE(bench.device->log().empty());
  bench.mover->pump();
  REQUIRE(bench.outcomes.size() == 1);
  REQUIRE(bench.device->last_thread() == std::this_thread::get_id());
}

TEST("with a thread of its own nobody else's is held") {
  Bench bench(true);
  bench.device->shut();
  bench.submit({100}, {200});
  bench.device->await_arrival();
  bench.submit({}, {210});
  bench.mover->pump();
  REQUIRE(bench.device->log().empty());
  bench.device->open();
  bench.finish(2);
  REQUIRE(bench.device->last_thread() != std::this_thread::get_id());
}

TEST("pump returns with its job done, even where another thread is doing the work") {
  Bench bench(false);
  bench.device->shut();
  bench.submit({}, {200});
  std::thread first([&] { bench.mover->pump(); });
  bench.device->await_arrival();
  std::atomic<bool> submitted{false};
  std::size_t ended = 0;
  std::thread second([&] {
    bench.submit({}, {210});
    submitted = true;
    bench.mover->pump();
    const std::lock_guard lock(bench.mutex);
    ended = bench.outcomes.size();
  });
  while (!submitted) std::this_thread::yield();
  bench.device->open();
  first.join();
  second.join();
  REQUIRE(ended == 2);
}

TEST("an ending job may queue another") {
  for (const bool threaded : {false, true}) {
    Bench bench(threaded);
    Job job = bench.job({}, {200});
    job.done = [&](const Outcome&) { bench.submit({}, {210}); };
    bench.mover->submit(std::move(job));
    bench.finish(1);
    REQUIRE(bench.device->log().back().starts_with("fetch 210"));
  }
}

TEST("the end waits for every queued job") {
  Bench bench(true);
  bench.device->shut();
  for (Address start = 200; start < 240; start += 2) bench.submit({}, {start});
  bench.device->await_arrival();
  std::thread ending([&] { bench.mover.reset(); });
  bench.device->open();
  ending.join();
  REQUIRE(bench.outcomes.size() == 20);
  REQUIRE(bench.device->log().size() == 20);
}
