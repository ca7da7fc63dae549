// Issues moves in order, on a native thread of its own where moves cost host time.
//
// A job takes ranges down from their places, then fetches others up, hop by hop. An eviction may
// hold the thread until the last use of its range is over: that is why it is not the caller's
// thread. Neighbours in a job move in one request, and arrivals take the lanes by turns. Jobs run
// first in, first out, and what arrives waits for all that left before it. But while the thread
// waits for a lane of the link, jobs overtake whose arrivals take none: what they bring is on the
// card already, in another form, and needed soon. The evictions of the jobs before them come first,
// since they may count on that room. A job that fails says how far it got; who submitted it takes
// back the jobs behind it that counted on the room it did not make.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/device.hpp"

namespace vramx {

struct Eviction {
  Route* route = nullptr;
  Range range;
  Address home = 0;  ///< the start of the reserved range it lies in
  EvictMode how = EvictMode::drop;
  std::vector<Fence> after;  ///< the uses to let finish first
  std::string name{};        ///< in a profiler's timeline
};

struct Fetch {
  Route* route = nullptr;
  Range range;
  Address home = 0;
  FetchMode how = FetchMode::duplicate;
  Store* host_mapped_in = nullptr;  ///< where the range is mapped for the card now
  std::string name{};               ///< in a profiler's timeline
};

/// When a request was carried out: by the host's clock, and where the device tells by its lane's.
struct Issue {
  std::uint64_t request = 0;  ///< its number
  Lane lane = 0;
  double began = 0;
  double ended = 0;
  Fence from{}, to{};
};

struct Outcome {
  std::size_t evicted = 0;      ///< evictions carried out
  std::size_t unmapped = 0;     ///< arrivals that are mapped for the card no more
  std::vector<Fence> freed;     ///< of the evictions carried out, when each is over
  std::vector<Fence> arrivals;  ///< of the arrivals under way, when each is complete
  std::vector<Issue> issues;    ///< of a timed job: of the evictions, then of the arrivals
  std::exception_ptr error;     ///< why the job stopped, or null
};

struct Job {
  std::uint64_t number = 0;  ///< its submitter's name for it
  bool timed = false;        ///< its issues are wanted
  std::vector<Eviction> evictions;
  std::vector<Fetch> fetches;
  /// Called once, without locks, and must not throw. It may take what is in the outcome.
  std::function<void(Outcome&)> done;
};

class Mover {
 public:
  /// Without `threaded` the jobs run in pump, on its caller's thread. With `profiled` each request
  /// is a range in the attached profiler's timeline.
  Mover(std::shared_ptr<Device> device, bool threaded, bool profiled = false);
  ~Mover();
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  /// Queues a job. Takes no lock that `done` may want.
  void submit(Job job);
  /// Removes the queued jobs that fetch something: nothing of theirs arrives, and their `done` is
  /// not called. Returns their numbers, and what they came to: evictions, where another job has
  /// overtaken them.
  std::vector<std::pair<std::uint64_t, Outcome>> take_back();
  /// Returns with every queued job done where there is no thread to do them; else at once.
  void pump();

 private:
  struct State;

  struct Queued {
    Job job;
    Outcome outcome{};
    bool has_evicted = false;
  };

  void loop();
  void carry_out(Queued queued);
  void evict_all(Queued& queued);
  void wait_for_lane(const Fence& free);
  bool let_one_overtake();
  Fence time_of(Route& route) noexcept;
  template <class Ask>
  Fence issue(const Job& job, Route& route, const std::string& name, std::size_t moves,
              Outcome& outcome, Ask&& ask);
  void evict(const Job& job, Outcome& outcome);
  void fetch(const Job& job, Outcome& outcome);

  std::shared_ptr<Device> device_;
  std::uint64_t generation_;
  bool profiled_;
  std::uint64_t requests_ = 0;
  Lane next_lane_ = 0;
  /// Evictions not waited for yet, by lane; and by what takes none, in the end.
  std::vector<std::vector<Fence>> not_ordered_;
  std::vector<Fence> under_way_;  ///< by lane: its last arrival
  std::unique_ptr<State> state_;
};

}  // namespace vramx
