// What happened, event by event, while somebody asks for it.
//
// Times are seconds since the journal began: on a virtual clock those of the card; else the host's,
// and the card's where it tells them, which the start of the journal brings together by waiting
// once. The newest events are kept, up to a number, and the lost ones are counted. Not for several
// threads at once: its owner's lock guards it.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "device/device.hpp"
#include "plan/plan.hpp"
#include "table/counts.hpp"

namespace vramx {

struct Event {
  /// `raised` and `lowered` are moves between the host and the place below it. A block's packed
  /// copy is `held` on the card from when it has come until it is `let_go`. `stalled` begins a
  /// lease: from when its stream had done all before it to when its blocks had come. `released`
  /// ends one.
  enum class Kind : std::uint8_t {
    fetched,
    evicted,
    raised,
    lowered,
    held,
    let_go,
    forgotten,
    stalled,
    released,
    budget,
    reserved,
    plan,
    failed,
  };
  static constexpr std::array names{"fetched",  "evicted",   "raised",  "lowered",  "held",
                                    "let_go",   "forgotten", "stalled", "released", "budget",
                                    "reserved", "plan",      "failed"};
  static constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

  Kind kind = Kind::failed;
  const char* cause = "";     ///< of a move: one of fetch_causes or evict_causes
  const char* how = "";       ///< of a move
  Lane lane = 0;              ///< of a move
  std::uint64_t request = 0;  ///< of a move: those of several blocks in one request share it
  std::uint64_t block = 0;    ///< its serial number
  std::uint64_t group = 0;    ///< its serial number
  Stream stream = 0;
  std::uint64_t thread = 0;  ///< as the system numbers it
  Bytes bytes = 0;           ///< of a move; the new budget; reserved now; a plan's bytes in, a pass
  Bytes crossed = 0;         ///< of the link's, which stood for a move's
  Bytes bytes_out = 0;       ///< a plan's bytes out, a pass
  double seconds = 0;        ///< a plan's, a pass
  double submitted = unknown;
  double began = unknown;
  double ended = unknown;
  std::string text{};  ///< what failed
  Fence from{}, to{};  ///< points in time that were not reached when last looked at
};

struct TracedGroup {
  std::uint64_t serial = 0;
  std::string name;
  std::vector<std::uint64_t> blocks;  ///< serial numbers
};

struct PlacedBlock {
  std::uint64_t serial = 0;
  Range range;
  Purpose purpose = Purpose::weights;
};

/// A block's packed copy on the card.
struct HeldPacked {
  std::uint64_t serial = 0;  ///< the block's
  Bytes bytes = 0;
};

struct Log {
  std::vector<Event> events{};  ///< in the order in which they became known
  std::uint64_t lost = 0;       ///< older than those
  std::vector<TracedGroup> groups{};
  std::vector<PlacedBlock> blocks{};
  std::vector<std::uint64_t> resident{};  ///< serial numbers, before the first event
  std::vector<HeldPacked> held{};         ///< before the first event
  Bytes budget = 0;                       ///< before the first event
  Bytes reserved = 0;                     ///< of the card, for no block; before the first event
  double seconds = 0;                     ///< from start to end
  bool virtual_clock = false;
  bool lane_times = false;  ///< the card tells when bytes crossed the link
  Rates link{};             ///< its rates
  unsigned lanes = 0;
};

class Journal {
 public:
  /// `start` says how things are now. Waits for the present end of `stream`, unless the clock is
  /// virtual.
  Journal(Device& device, Stream stream, std::size_t most_events, Log start);

  /// Now, as well as it is known: on a virtual clock the last time that a stream has told.
  double now() const;
  /// A time of the host's clock as one of the journal's.
  double since_start(double host_seconds) const { return host_seconds - began_; }
  bool virtual_clock() const { return virtual_clock_; }

  /// A move that was under way at the start, and counted as done, was not.
  void correct_start(std::uint64_t block, bool resident);
  void correct_start(HeldPacked copy, bool held);
  void add(Event event);
  void add(TracedGroup group) { log_.groups.push_back(std::move(group)); }
  void add(const PlacedBlock& block) { log_.blocks.push_back(block); }

  /// Ends it; waits for the card's times that are still to come.
  Log finish();

 private:
  bool read(Fence& fence, double& time, bool wait);
  bool resolve(Event& event, bool wait) noexcept;
  void lose(const Event& event);

  Streams& streams_;
  std::size_t most_events_;
  bool virtual_clock_;
  Fence origin_;
  double began_ = 0;
  double latest_ = 0;
  std::deque<Event> events_;
  std::size_t resolved_ = 0;                       ///< so many of the oldest have all their times
  std::unordered_set<std::uint64_t> resident_;     ///< before the oldest event that is kept
  std::unordered_map<std::uint64_t, Bytes> held_;  ///< likewise, packed
  Log log_;
};

}  // namespace vramx
