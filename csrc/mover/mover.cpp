#include "mover/mover.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.hpp"
#include "base/fork.hpp"
#include "base/host_clock.hpp"
#include "device/profiler.hpp"

namespace vramx {

struct Mover::State {
  std::mutex pumping;
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Queued> jobs;
  std::atomic<std::uint64_t> submitted = 0;
  std::atomic<bool> some_overtake = false;
  bool stopping = false;
  std::thread thread;
};

namespace {

/// How long a wait for a lane looks at nothing else, unless something is submitted.
constexpr std::chrono::microseconds looks_every{20};

/// Whether all that a job brings is on the card in another form.
bool overtakes(const Job& job) {
  return !job.fetches.empty() && std::ranges::none_of(job.fetches, [](const Fetch& each) {
    return each.route->crosses_link();
  });
}

}  // namespace

Mover::Mover(std::shared_ptr<Device> device, bool threaded, bool profiled)
    : device_(std::move(device)),
      generation_(process_generation()),
      profiled_(profiled),
      not_ordered_(device_->facts().lanes + 1),
      under_way_(device_->facts().lanes),
      state_(std::make_unique<State>()) {
  if (threaded) state_->thread = std::thread([this] { loop(); });
}

Mover::~Mover() {
  if (generation_ != process_generation()) {
    // The thread did not survive the fork, and what it waited on cannot be taken down.
    static_cast<void>(state_.release());
    return;
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  if (state_->thread.joinable()) state_->thread.join();
}

void Mover::submit(Job job) {
  {
    const std::lock_guard lock(state_->mutex);
    if (overtakes(job)) state_->some_overtake = true;
    state_->jobs.push_back({.job = std::move(job)});
    ++state_->submitted;
  }
  state_->wake.notify_one();
}

std::vector<std::pair<std::uint64_t, Outcome>> Mover::take_back() {
  std::vector<std::pair<std::uint64_t, Outcome>> taken;
  const std::lock_guard lock(state_->mutex);
  std::erase_if(state_->jobs, [&](Queued& queued) {
    if (queued.job.fetches.empty()) return false;
    taken.emplace_back(queued.job.number, std::move(queued.outcome));
    return true;
  });
  return taken;
}

void Mover::pump() {
  if (state_->thread.joinable()) return;
  const std::lock_guard one_at_a_time(state_->pumping);
  std::unique_lock lock(state_->mutex);
  while (!state_->jobs.empty()) {
    Queued next = std::move(state_->jobs.front());
    state_->jobs.pop_front();
    lock.unlock();
    carry_out(std::move(next));
    lock.lock();
  }
}

void Mover::loop() {
  std::unique_lock lock(state_->mutex);
  for (;;) {
    state_->wake.wait(lock, [this] { return state_->stopping || !state_->jobs.empty(); });
    if (state_->jobs.empty()) return;
    Queued next = std::move(state_->jobs.front());
    state_->jobs.pop_front();
    const std::uint64_t submitted = state_->submitted;
    const bool last = state_->jobs.empty();
    lock.unlock();
    carry_out(std::move(next));
    if (last) stay_awake(100e-6, [&] { return state_->submitted != submitted; });
    lock.lock();
  }
}

Fence Mover::time_of(Route& route) noexcept {
  try {
    return route.lane_clock(next_lane_);
  } catch (const Error&) {
    return nullptr;  // the host's times remain
  }
}

// One request of a route for `moves` of the job's, on the next lane.
template <class Ask>
Fence Mover::issue(const Job& job, Route& route, const std::string& name, std::size_t moves,
                   Outcome& outcome, Ask&& ask) {
  struct ProfilerRange {
    explicit ProfilerRange(const std::string* name) : begun(name != nullptr) {
      if (begun) begin_profiler_range(*name);
    }
    ~ProfilerRange() {
      if (begun) end_profiler_range();
    }
    ProfilerRange(const ProfilerRange&) = delete;
    ProfilerRange& operator=(const ProfilerRange&) = delete;
    bool begun;
  } const range{profiled_ ? &name : nullptr};
  if (!job.timed) return ask();
  Issue issue{.request = ++requests_, .lane = next_lane_, .began = host_seconds()};
  issue.from = time_of(route);
  const Fence over = ask();
  issue.to = time_of(route);
  issue.ended = host_seconds();
  outcome.issues.insert(outcome.issues.end(), moves, issue);
  return over;
}

void Mover::evict(const Job& job, Outcome& outcome) {
  for (std::size_t i = 0; i < job.evictions.size();) {
    Range range = job.evictions[i].range;
    std::vector<Fence> after = job.evictions[i].after;
    std::size_t next = i + 1;
    for (; next < job.evictions.size(); ++next) {
      const Eviction& more = job.evictions[next];
      const bool joins = more.route == job.evictions[i].route && more.how == job.evictions[i].how &&
                         more.home == job.evictions[i].home && more.range.start == range.end();
      if (!joins) break;
      range.size += more.range.size;
      after.insert(after.end(), more.after.begin(), more.after.end());
    }
    const Eviction& first = job.evictions[i];
    const Fence freed = issue(job, *first.route, first.name, next - i, outcome, [&] {
      return first.route->evict(range, first.how, next_lane_, after);
    });
    if (freed) {
      for (auto& fences : not_ordered_) fences.push_back(freed);
    }
    outcome.evicted += next - i;
    outcome.freed.insert(outcome.freed.end(), next - i, freed);
    i = next;
  }
}

void Mover::fetch(const Job& job, Outcome& outcome) {
  for (const Fetch& arrival : job.fetches) {
    if (arrival.host_mapped_in != nullptr) arrival.host_mapped_in->unmap_host(arrival.range);
    ++outcome.unmapped;
  }
  for (std::size_t i = 0; i < job.fetches.size();) {
    Range range = job.fetches[i].range;
    std::size_t next = i + 1;
    for (; next < job.fetches.size(); ++next) {
      const Fetch& more = job.fetches[next];
      const bool joins = more.route == job.fetches[i].route && more.how == job.fetches[i].how &&
                         more.home == job.fetches[i].home && more.range.start == range.end();
      if (!joins) break;
      range.size += more.range.size;
    }
    const Fetch& first = job.fetches[i];
    const bool takes_lane = first.route->crosses_link();
    auto& not_ordered = takes_lane ? not_ordered_[next_lane_] : not_ordered_.back();
    std::size_t before = not_ordered.size();  // more may leave while it waits for a lane
    // An eviction waits for what the driver has queued before it, so the queue is kept at one
    // request a lane: it keeps the link busy, and longer ones were measured a fifth slower.
    if (takes_lane && state_->thread.joinable()) {
      wait_for_lane(under_way_[next_lane_]);
    } else if (takes_lane && under_way_[next_lane_]) {
      not_ordered.push_back(under_way_[next_lane_]);
      ++before;
    }
    const Fence arrived = issue(job, *first.route, first.name, next - i, outcome, [&] {
      return first.route->fetch(range, first.how, next_lane_, {not_ordered.data(), before});
    });
    not_ordered.erase(not_ordered.begin(), not_ordered.begin() + before);
    if (takes_lane) {
      under_way_[next_lane_] = arrived;
      next_lane_ = (next_lane_ + 1) % device_->facts().lanes;
    }
    outcome.arrivals.insert(outcome.arrivals.end(), next - i, arrived);
    i = next;
  }
}

void Mover::evict_all(Queued& queued) {
  if (std::exchange(queued.has_evicted, true)) return;
  try {
    evict(queued.job, queued.outcome);
  } catch (...) {
    queued.outcome.error = std::current_exception();
  }
}

void Mover::carry_out(Queued queued) {
  evict_all(queued);
  if (!queued.outcome.error) {
    try {
      fetch(queued.job, queued.outcome);
    } catch (...) {
      queued.outcome.error = std::current_exception();
    }
  }
  queued.job.done(queued.outcome);
}

void Mover::wait_for_lane(const Fence& free) {
  while (state_->some_overtake && !device_->streams().reached(free)) {
    const std::uint64_t seen = state_->submitted;
    if (let_one_overtake()) continue;
    std::unique_lock lock(state_->mutex);
    state_->wake.wait_for(lock, looks_every, [&] { return state_->submitted != seen; });
  }
  device_->streams().wait(free);
}

/// Returns false where there is no such job, or one before it has failed.
bool Mover::let_one_overtake() {
  std::unique_lock lock(state_->mutex);
  auto& jobs = state_->jobs;
  const auto found =
      std::ranges::find_if(jobs, [](const Queued& queued) { return overtakes(queued.job); });
  if (found == jobs.end()) return false;
  std::deque<Queued> before(std::move_iterator(jobs.begin()), std::move_iterator(found));
  Queued overtaking = std::move(*found);
  jobs.erase(jobs.begin(), std::next(found));
  lock.unlock();
  bool has_room = true;
  for (Queued& queued : before) {
    evict_all(queued);
    has_room = has_room && !queued.outcome.error;
    if (!has_room) break;
  }
  if (has_room) carry_out(std::move(overtaking));
  lock.lock();
  if (!has_room) jobs.push_front(std::move(overtaking));
  jobs.insert(jobs.begin(), std::move_iterator(before.begin()), std::move_iterator(before.end()));
  return has_room;
}

}  // namespace vramx
