#include "mover/mover.hpp"

#include <utility>

namespace vramx {

Mover::Mover(std::shared_ptr<Device> device, bool threaded) : device_(std::move(device)) {
  if (threaded) {
    thread_ = std::thread([this] { loop(); });
  }
}

Mover::~Mover() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void Mover::submit(Job job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void Mover::pump() {
  if (thread_.joinable()) {
    return;
  }
  const std::lock_guard one_at_a_time(pumping_);
  std::unique_lock lock(mutex_);
  while (!jobs_.empty()) {
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    run(job);
    lock.lock();
  }
}

void Mover::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) {
      return;
    }
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    run(job);
    job = {};
    lock.lock();
  }
}

void Mover::run(Job& job) {
  Outcome outcome;
  const Lane lane = next_lane_;
  try {
    std::vector<Fence> freed;
    for (const auto& departure : job.departures) {
      freed.push_back(device_->leave(departure.range, departure.how, lane, departure.after));
      ++outcome.left;
    }
    if (job.arrival) {
      if (job.arrival->conceal) {
        device_->conceal(job.arrival->range);
        outcome.concealed = true;
      }
      outcome.arrival = device_->bring(job.arrival->range, job.arrival->how, lane, freed);
    }
    next_lane_ = (lane + 1) % device_->facts().lanes;
  } catch (...) {
    outcome.error = std::current_exception();
  }
  job.done(outcome);
}

}  // namespace vramx
