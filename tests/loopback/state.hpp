// What the stand-in driver knows, all of it behind one mutex.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "loopback.h"

namespace loopback {

inline constexpr std::uint64_t page_size = std::uint64_t{2} << 20;
inline constexpr int most_cards = 8;
inline constexpr int host = -1;  // CU_DEVICE_CPU
inline constexpr int nowhere = -2;

struct Page {
  int preferred = nowhere;
  bool read_mostly = false;
  bool on_host = true;
  std::uint32_t cards = 0;        // a bit a card that holds a copy
  std::uint32_t accessed_by = 0;  // a bit a card that has it mapped
};

struct Allocation {
  std::uint64_t size = 0;
  std::vector<Page> pages;
};

// A place in a stream's work.
struct Point {
  bool reached = false;
};

struct Event {
  bool timed = false;
  std::shared_ptr<Point> point;  // null: never recorded
};

// One piece of work: waits for `after`, then runs.
struct Work {
  std::shared_ptr<Point> after;
  std::function<void()> run;
  std::uintptr_t address = 0;  // the memory it names
  std::uint64_t size = 0;
};

struct Stream {
  bool held = false;
  std::deque<Work> queue;
};

struct State {
  std::mutex mutex;
  std::condition_variable progressed;

  bool initialised = false;
  int version = 13000;
  int cards = 1;
  int concurrent_access = 1;
  std::uint64_t capacity = std::uint64_t{8} << 30;

  std::map<std::string, std::uint64_t> calls;
  std::map<std::string, std::pair<std::uint64_t, int>> failing;  // calls left, result

  std::uint64_t retained[most_cards] = {};
  std::map<std::uintptr_t, Stream> streams{{0, {}}};
  std::map<std::uintptr_t, Event> events;
  std::map<std::uintptr_t, Allocation> allocations;
  std::uintptr_t last = 0;  // the last allocation
  std::uintptr_t next_handle = 0x1000;
  LoopbackCounts counts{};

  // memory.cpp. Each throws nothing and needs `mutex` held.
  std::uintptr_t allocate(std::uint64_t size);
  void free(std::uintptr_t address);
  /// The allocation that holds a whole-page range, or null.
  Allocation* find(std::uintptr_t address, std::uint64_t size, std::size_t* first_page);
  void prefetch(std::uintptr_t address, std::uint64_t size, int card);
  void touch(std::uintptr_t address, std::uint64_t size, bool write);
  void unset_read_mostly(Page& page);
  void set_cards_of(Page& page, std::uint32_t cards);

  // streams.cpp
  void submit(std::uintptr_t stream, Work work);
  void advance();
  bool named_by_work(std::uintptr_t address, std::uint64_t size) const;
};

State& state();

}  // namespace loopback
