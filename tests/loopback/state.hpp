// What the stand-in driver knows, all of it behind one mutex.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels.hpp"
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

// A card's physical memory: a file of its own, so that it keeps its bytes wherever it is mapped.
struct Physical {
  int file = -1;
  std::uint64_t size = 0;
  bool released = false;
  int mappings = 0;
};

// Physical memory at reserved addresses. Without access they are as good as empty.
struct Mapping {
  std::uint64_t size = 0;
  std::uint64_t handle = 0;
  bool access = false;
};

// A place in a stream's work.
struct Point {
  std::uintptr_t stream = 0;
  bool reached = false;
};

// When work is carried out: as soon as may be, once something waits for it, or at any moment.
enum class Moment : std::uint8_t { earliest, latest, random };

struct Event {
  std::uintptr_t context = 0;  // the one that was current when it was created
  bool timed = false;
  std::shared_ptr<Point> point;  // null: never recorded
};

// One piece of work: waits for `after`, then runs.
struct Work {
  std::shared_ptr<Point> after;
  std::function<void()> run;
  std::vector<Bytes> names{};  // the memory it reads and writes
};

struct Stream {
  std::uintptr_t context = 0;  // likewise; the default stream is of whichever is current
  bool held = false;
  bool programs = false;  // the processor does the program's work on it, at once
  std::deque<Work> queue;
};

struct Function {
  std::uintptr_t module = 0;
  const Kernel* kernel = nullptr;
};

struct State {
  /// Moments are those of VRAMX_TEST_SEED: "earliest", "latest", or a number for random ones.
  State();

  std::mutex mutex;
  std::condition_variable progressed;

  bool initialised = false;
  std::string name = "Loopback card";
  int version = 13000;
  int cards = 1;
  int concurrent_access = 1;
  int managed_memory = 1;
  int maps_memory = 1;
  int uses_registered = 1;
  std::uint64_t capacity = std::uint64_t{8} << 30;
  std::uint64_t pinnable = ~std::uint64_t{0};
  int copies_pageable = 0;

  std::map<std::string, std::uint64_t> calls;
  std::map<std::string, std::pair<std::uint64_t, int>> failing;  // calls left, result
  std::pair<std::uint64_t, std::uint64_t> damaging;              // copies left, bit

  std::uint64_t retained[most_cards] = {};
  std::set<std::uintptr_t> created_contexts;
  std::map<std::uintptr_t, Stream> streams;  // 0: the default stream
  std::map<std::uintptr_t, Event> events;
  std::map<std::uintptr_t, std::string> modules;  // PTX
  std::map<std::uintptr_t, Function> functions;
  std::map<std::uintptr_t, Allocation> allocations;
  std::uintptr_t last = 0;  // the last allocation
  std::map<std::uintptr_t, std::uint64_t> reservations;
  std::uintptr_t last_reserved = 0;
  std::map<std::uint64_t, Physical> physical;
  std::map<std::uintptr_t, Mapping> mappings;
  std::map<std::uintptr_t, std::uint64_t> registered;  // host memory of the program
  std::uintptr_t next_handle = 0x1000;
  Moment moment = Moment::earliest;
  std::mt19937_64 random;
  LoopbackCounts counts{};

  // memory.cpp. Each throws nothing and needs `mutex` held.
  std::uintptr_t allocate(std::uint64_t size);
  void free(std::uintptr_t address);
  /// The allocation that holds a whole-page range, or null.
  Allocation* find(std::uintptr_t address, std::uint64_t size, std::size_t* first_page);
  void prefetch(std::uintptr_t address, std::uint64_t size, int card);
  void discard(std::uintptr_t address, std::uint64_t size);
  void touch(std::uintptr_t address, std::uint64_t size, bool write);
  void unset_read_mostly(Page& page);
  void set_cards_of(Page& page, std::uint32_t cards);

  /// Bytes of cards' memory that nobody else can have.
  std::uint64_t used() const;
  /// Whether so much more host memory can be pinned.
  bool can_pin(std::uint64_t size) const;

  // mappings.cpp. Likewise; false or 0 where the real driver refuses.
  std::uintptr_t reserve(std::uint64_t size);
  bool free_addresses(std::uintptr_t address, std::uint64_t size);
  std::uint64_t create(std::uint64_t size);
  bool release(std::uint64_t handle);
  bool map(std::uintptr_t address, std::uint64_t size, std::uint64_t handle);
  bool unmap(std::uintptr_t address, std::uint64_t size);
  bool set_access(std::uintptr_t address, std::uint64_t size);
  /// The mapping that holds a range, or null.
  Mapping* mapping_of(std::uintptr_t address, std::uint64_t size);
  /// Whether a copy may read or write a range on the card, or in pinned host memory.
  bool copies_on_card(std::uintptr_t address, std::uint64_t size);
  bool copies_on_host(std::uintptr_t address, std::uint64_t size);
  /// A card's touch of one page of reserved addresses or pinned memory; false for others.
  bool touch_mapped(std::uintptr_t page);
  void drop_if_unused(std::uint64_t handle);

  // streams.cpp
  void submit(std::uintptr_t stream, Work work);
  /// As submit, of work that the processor does not do at once.
  void launch(std::uintptr_t stream, Work work);
  /// Does what may be done now, as far as the moments say so.
  void advance();
  std::shared_ptr<Point> end_of(std::uintptr_t stream);
  /// Does what a point waits for, and nothing else. Returns whether it is reached: a held stream
  /// may be in the way.
  bool reach(const Point& point);
  /// Likewise of what a stream, or every stream, was given.
  bool finish(std::uintptr_t stream);
  void finish();
  bool named_by_work(std::uintptr_t address, std::uint64_t size) const;
};

State& state();

/// Fresh pages, right before the `last` ones where there is room. The real driver's lie side by
/// side too, and ranges that reach from one into the next must be noticed.
std::uintptr_t place(std::uintptr_t& last, std::uint64_t size, int protection);

}  // namespace loopback
