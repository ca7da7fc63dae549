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
  enum class State : std::uint8_t { unused, at_rest, held, fetching, evicting };
  enum class Preference : std::uint8_t { none, device, host };

  Range range;
  Address home = 0;          ///< the start of the range it was adopted in
  std::uint64_t serial = 0;  ///< unlike its number never another block's
  Purpose purpose = Purpose::weights;
  State state = State::unused;
  Place at = Place::host;          ///< the highest place of its bytes; on its way, where it ends
  Place lowest = Place::host;      ///< of its memory
  Place current_to = Place::host;  ///< the lowest place whose copy holds its present bytes
  Preference preference = Preference::none;
  bool read_mostly = true;      ///< comes with its host copy left valid
  bool dead = false;            ///< nobody needs its bytes
  bool planned = false;         ///< the plan knows it
  bool released = false;        ///< the plan says that it leaves now
  bool host_mapped = false;     ///< on the host, and the card may use it there
  bool accessed_by = false;     ///< is mapped for the card whenever it is on the host
  bool grouped = false;         ///< is or was part of a group
  bool confined = false;        ///< while somebody needs its bytes it has no place but the card
  Bytes packed = 0;             ///< of its packed copy on the host; 0 where it has none
  Bytes packed_room = 0;        ///< that it takes on the card
  bool packed_stale = false;    ///< that one does not hold the present bytes
  bool packed_on_card = false;  ///< the packed copy is on the card too, or on its way there
  bool keeps_packed = false;    ///< the plan wants it there
  bool crosses_packed = true;   ///< the link takes it packed, where it has that copy
  bool damaged = false;         ///< the copy on the card is wrong: the packed one arrived damaged
  std::uint32_t leases = 0;
  std::uint64_t window = 0;                    ///< the last look ahead that wants it
  Fence departure;                             ///< when it had left the card
  Fence packed_departure;                      ///< when its packed copy had
  Fence arrival;                               ///< when it has come
  std::vector<Stream> ordered;                 ///< the streams that wait for that
  std::vector<std::pair<Stream, Fence>> uses;  ///< the last use on each stream; null: not marked
  std::exception_ptr error;                    ///< why its last move failed
  Counts counts;

  /// The plan has no need of it for as long as what it fetches ahead.
  bool unneeded() const { return dead || released || (!planned && purpose == Purpose::weights); }
  /// The program works with it, and the plan leaves room for it.
  bool unplanned_scratch() const {
    return committed() && purpose == Purpose::scratch && !planned && !dead;
  }
  bool settled() const { return state == State::at_rest; }
  bool committed() const { return state != State::unused && at == Place::card; }
  bool resident() const { return settled() && at == Place::card; }
  bool away() const { return settled() && at != Place::card; }
  bool evictable() const { return resident() && may_move(); }
  /// Whether the place below may take it from a place where it rests.
  bool may_fall(Place from) const { return settled() && at == from && may_move() && from < lowest; }
  bool may_move() const { return leases == 0 && (dead || !confined); }

  /// The copy in a place was written; those below are older, and so is what was packed. In a Change
  /// of the table's.
  void written(Place where) {
    current_to = std::min(current_to, where);
    packed_stale = packed > 0 || state == State::held;  // it may be being packed
  }
  /// The copy in a place holds the present bytes.
  void copied(Place to) { current_to = std::max(current_to, to); }

  /// Whether it can come from its packed copy.
  bool unpacks() const { return packed > 0 && !packed_stale && !dead && read_mostly; }
  bool wants_packed() const { return keeps_packed && unpacks(); }
  bool packed_unwanted() const { return packed_on_card && settled() && !wants_packed(); }

  FetchMode fetch_mode(Place to) const {
    if (dead || confined) return FetchMode::empty;
    return read_mostly || to != Place::card ? FetchMode::duplicate : FetchMode::move;
  }

  EvictMode evict_mode(Place from) const {
    if (dead) return EvictMode::discard;
    if (damaged) return EvictMode::drop;
    const bool moved = !read_mostly && from == Place::card;
    return moved || current_to <= from ? EvictMode::write_back : EvictMode::drop;
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
