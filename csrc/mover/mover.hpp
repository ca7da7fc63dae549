// Issues moves in order, on a native thread of its own where moves cost host time.
//
// A job takes ranges off the card, then brings one. A departure may hold the thread until the last
// use of its range is over: that is why it is not the caller's thread. Jobs run first in, first out;
// a job that fails brings nothing, and its outcome says how many departures had been carried out.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "device/device.hpp"

namespace vramx {

struct Departure {
  Range range;
  Leave how = Leave::drop;
  std::vector<Fence> after;  ///< the uses to let finish first
};

struct Arrival {
  Range range;
  Arrive how = Arrive::duplicate;
  bool conceal = false;  ///< the range is exposed now
};

struct Outcome {
  std::size_t left = 0;      ///< departures carried out
  bool concealed = false;    ///< the arriving range is exposed no more
  Fence arrival;             ///< when the arrival is complete
  std::exception_ptr error;  ///< why the job stopped, or null
};

struct Job {
  std::vector<Departure> departures;
  std::optional<Arrival> arrival;
  std::function<void(const Outcome&)> done;  ///< called once, without locks, and must not throw
};

class Mover {
 public:
  /// Without `threaded` the jobs run in pump, on its caller's thread.
  Mover(std::shared_ptr<Device> device, bool threaded);
  ~Mover();
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  /// Queues a job. Takes no lock that `done` may want.
  void submit(Job job);
  /// Returns with every queued job done where there is no thread to do them; else at once.
  void pump();

 private:
  void loop();
  void run(Job& job);

  std::shared_ptr<Device> device_;
  Lane next_lane_ = 0;
  std::mutex pumping_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace vramx
