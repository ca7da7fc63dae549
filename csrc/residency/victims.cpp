// What leaves a place when room is needed there.
#include <algorithm>

#include "base/error.hpp"
#include "residency/moves.hpp"

namespace vramx {

PerPlace<Bytes> Moves::room() const {
  return {{budget_, settings_.host_limit, std::numeric_limits<Bytes>::max()}};
}

bool Moves::make_room(const PerPlace<Bytes>& need, const Evictable& evictable, bool for_use,
                      Falls& falls) const {
  const std::size_t before = falls.size();
  const auto size = [&](const Fall& fall) {
    return fall.packed ? table_[fall.id].packed_room : table_[fall.id].range.size;
  };
  for (Place place = Place::card; place == Place::card || need[place] > 0; place = below(place)) {
    Bytes held = table_.sums().held[place];
    for (const Fall& fall : falls) {
      if (fall.from == place) held -= size(fall);
    }
    while (held + need[place] > room()[place]) {
      const std::size_t chosen = falls.size();
      if (!add_fall(place, evictable, falls) &&
          !(for_use && place == Place::card && add_packed_fall(falls))) {
        falls.resize(before);
        return false;
      }
      for (std::size_t i = chosen; i < falls.size(); ++i) {
        if (falls[i].from == place) held -= size(falls[i]);
      }
    }
    if (place == Place::below_host) break;
  }
  return true;
}

// A packed copy that the plan would keep.
bool Moves::add_packed_fall(Falls& falls) const {
  for (BlockId id = 0; id < table_.size(); ++id) {
    const bool falls_already =
        std::ranges::any_of(falls, [&](const Fall& fall) { return fall.id == id && fall.packed; });
    if (!table_[id].packed_on_card || !table_[id].settled() || falls_already) continue;
    falls.push_back({.id = id, .packed = true});
    return true;
  }
  return false;
}

// What a place below the card has no victim for falls to it first, and on at once.
bool Moves::add_fall(Place from, const Evictable& evictable, Falls& falls) const {
  const auto falls_from = [&](BlockId id, Place place) {
    return std::ranges::any_of(falls, [&](const Fall& fall) {
      return fall.id == id && fall.from == place && !fall.packed;
    });
  };
  if (from == Place::card) {
    const auto id =
        victim([&](BlockId id) { return evictable(id) && !falls_from(id, Place::card); });
    if (id) falls.push_back({*id, from});
    return id.has_value();
  }
  const auto below_it = strategy_.victim_below(
      from, [&](BlockId id) { return table_[id].may_fall(from) && !falls_from(id, from); });
  if (below_it) {
    falls.push_back({*below_it, from});
    return true;
  }
  const auto goes_on = [&](const Fall& fall) {
    return fall.from == above(from) && table_[fall.id].lowest > from && !falls_from(fall.id, from);
  };
  auto next = std::ranges::find_if(falls, goes_on);
  if (next == falls.end()) {
    const Evictable may_go_on = [&](BlockId id) {
      return evictable(id) && table_[id].lowest > from;
    };
    if (!add_fall(above(from), may_go_on, falls)) return false;
    next = std::prev(falls.end());
  }
  falls.push_back({next->id, from});
  return true;
}

// What nobody needs leaves the card first, and what the plan lets go, which comes before memory
// that the program is about to allocate again; then what leaves without a copy, since a write-back
// and the way back in cost the link twice.
std::optional<BlockId> Moves::victim(const Evictable& evictable) const {
  const Evictable freely = [&](BlockId id) {
    return table_[id].preference != Block::Preference::device && evictable(id);
  };
  const Evictable dead = [&](BlockId id) { return table_[id].dead && evictable(id); };
  const bool any_dead = table_.sums().dead_on_card > 0;
  std::optional<BlockId> found;
  if (any_dead) {
    found = strategy_.victim([&](BlockId id) { return dead(id) && !strategy_.reuses(id); });
  }
  if (!found) found = strategy_.released_victim(evictable);
  if (!found && any_dead) found = strategy_.victim(dead);
  if (!found) {
    found = strategy_.victim([&](BlockId id) {
      return table_[id].evict_mode(Place::card) == EvictMode::drop && freely(id);
    });
  }
  if (!found) found = strategy_.victim(freely);
  if (!found) found = strategy_.victim(evictable);
  if (found && (*found >= table_.size() || !evictable(*found))) {
    throw Error("the policy chose block " + std::to_string(*found) +
                ", which may not leave; victim(evictable) returns a block for which "
                "evictable(block) holds, or None");
  }
  return found;
}

}  // namespace vramx
