// What is known of one block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <utility>
#include <vector>

#include "base/range.hpp"
#include "device/device.hpp"
#include "table/counts.hpp"

namespace vramx {

struct Block {
  /// `held`: on the host, while somebody works on the host copy.
  enum class State : std::uint8_t { unused, host, held, arriving, resident, leaving };
  enum class Preference : std::uint8_t { none, device, host };

  Range range;
  Address home = 0;          ///< the start of the range it was adopted in
  std::uint64_t serial = 0;  ///< unlike its number never another block's
  Use use = Use::weights;
  State state = State::unused;
  Preference preference = Preference::none;
  bool read_mostly = true;   ///< comes with its host copy left valid
  bool dirty = false;        ///< on the card, and the host copy is not valid
  bool dead = false;         ///< nobody needs its bytes
  bool planned = false;      ///< the plan knows it
  bool released = false;     ///< the plan says that it leaves now
  bool exposed = false;      ///< on the host, and the card may use it there
  bool accessed_by = false;  ///< is exposed whenever it is on the host
  bool grouped = false;      ///< is or was part of a group
  std::uint32_t leases = 0;
  std::uint64_t window = 0;                    ///< the last look ahead that wants it
  Leave leaving = Leave::drop;                 ///< while leaving: how
  Arrive arriving = Arrive::duplicate;         ///< while arriving: how
  Left left_for = Left::use;                   ///< while leaving: why
  Brought brought_for = Brought::use;          ///< while arriving: why
  Fence departure;                             ///< when it had left the card
  Fence arrival;                               ///< when it has come
  std::vector<Stream> ordered;                 ///< the streams that wait for that
  std::vector<std::pair<Stream, Fence>> uses;  ///< the last use on each stream; null: not marked
  std::exception_ptr error;                    ///< why its last move failed
  Counts counts;

  /// The plan has no need of it for as long as what it brings ahead.
  bool leavable() const { return dead || released || (!planned && use == Use::weights); }
  /// The program works with it, and the plan leaves room for it.
  bool unplanned_scratch() const { return committed() && use == Use::scratch && !planned && !dead; }
  bool settled() const { return state == State::host || state == State::resident; }
  bool committed() const { return state == State::arriving || state == State::resident; }
  bool may_leave() const { return state == State::resident && leases == 0; }

  Arrive arrives() const {
    if (dead) return Arrive::empty;
    return read_mostly ? Arrive::duplicate : Arrive::move;
  }

  Leave leaves() const {
    if (dead) return Leave::discard;
    if (!read_mostly || dirty) return Leave::write_back;
    return Leave::drop;
  }

  /// Whether work given to `stream` would not wait for its arrival yet.
  bool waits(Stream stream) const {
    return arrival && std::find(ordered.begin(), ordered.end(), stream) == ordered.end();
  }

  void used(Stream stream, const Fence& fence) {
    for (auto& [on, last] : uses) {
      if (on == stream) {
        last = fence;
        return;
      }
    }
    uses.emplace_back(stream, fence);
  }

  /// What to wait for before the block may move. A use that was not marked ended before the present
  /// end of its stream.
  std::vector<Fence> fences(Streams& streams) const {
    std::vector<Fence> all;
    if (arrival) all.push_back(arrival);
    for (const auto& [stream, fence] : uses) {
      all.push_back(fence ? fence : mark_or_nothing(streams, stream));
    }
    return all;
  }
};

}  // namespace vramx
