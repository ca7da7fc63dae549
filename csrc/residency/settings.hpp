// How a session is opened, what may be advised of its memory, and what is counted of it.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>

#include "base/bytes.hpp"
#include "table/counts.hpp"

namespace vramx {

enum class Advice : std::uint8_t {
  read_mostly,
  unset_read_mostly,
  preferred_device,
  preferred_host,
  unset_preferred,
  accessed_by,
  unset_accessed_by,
};

/// Called now and then while a call waits, without locks; throws to end the wait.
using Poll = std::function<void()>;

struct Settings {
  Bytes budget = 0;
  Bytes block = 32 * MiB;
  /// The most bytes on the host: to take charge of, where there is no place below it.
  Bytes host_limit = std::numeric_limits<Bytes>::max();
  bool threaded = true;   ///< moves are issued by a thread of their own
  bool profiled = false;  ///< leases and moves are ranges in the attached profiler's timeline
};

/// The counts of all blocks that there ever were, and what is counted of the whole: in bytes, in
/// moves and in seconds.
struct Stats : Counts {
  Bytes budget = 0, managed = 0, resident = 0, leased = 0, peak_resident = 0;
  Bytes packed_on_host = 0, packed_on_card = 0;  ///< in packed copies
  std::uint64_t failed_moves = 0;
  double stall_seconds = 0;
};

}  // namespace vramx
