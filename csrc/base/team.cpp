#include "base/team.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace vramx {

namespace {

constexpr unsigned most_threads = 12;

}  // namespace

void in_team(std::size_t count, const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  const auto take_turns = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      next = count;
    }
  };
  const std::size_t threads = std::min<std::size_t>(
      {most_threads, std::max(1U, std::thread::hardware_concurrency()), count});
  std::vector<std::thread> team;
  for (std::size_t i = 1; i < threads; ++i) team.emplace_back(take_turns);
  take_turns();
  for (auto& thread : team) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace vramx
