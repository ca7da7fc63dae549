#include "plan/schedule.hpp"

#include <algorithm>
#include <utility>

namespace vramx {

Schedule::Schedule(std::vector<Use> cycle, Trace trace, Plan plan, std::size_t position)
    : cycle_(std::move(cycle)),
      trace_(std::move(trace)),
      plan_(std::move(plan)),
      room_to_unpack_(most_unpacked(trace_, plan_)),
      position_(position),
      last_(cycle_[position].group) {
  for (std::size_t at = 0; at < cycle_.size(); ++at) {
    const Use& use = cycle_[at];
    if (use.group >= places_of_.size()) places_of_.resize(use.group + 1);
    places_of_[use.group].push_back(at);
    for (std::size_t i = 0; i < use.blocks.size(); ++i) {
      if (use.blocks[i] >= uses_of_.size()) uses_of_.resize(use.blocks[i] + 1);
      uses_of_[use.blocks[i]].emplace_back(at, plan_.levels[at][i]);
    }
  }
}

bool Schedule::used(GroupId group) {
  const std::size_t size = cycle_.size();
  const auto before = std::exchange(last_, group);
  if (position_ && cycle_[(*position_ + 1) % size].group == group) {
    position_ = (*position_ + 1) % size;
    ++matched_;
    return on_course();
  }
  // Departed. Found again where the last two uses stand one after the other, or at its only place.
  position_.reset();
  matched_ = 0;
  if (group >= places_of_.size()) return false;
  for (const std::size_t place : places_of_[group]) {
    if (before && cycle_[(place + size - 1) % size].group == *before) {
      position_ = place;
      matched_ = matches_needed;
      return true;
    }
  }
  if (places_of_[group].size() == 1) {
    position_ = places_of_[group].front();
    matched_ = 1;
  }
  return false;
}

std::vector<Bytes> Schedule::scratch() const {
  std::vector<Bytes> all;
  for (const Step& step : trace_.steps) all.push_back(step.scratch);
  return all;
}

std::optional<std::size_t> Schedule::begin_in(const std::vector<Use>& other) const {
  if (other.size() != cycle_.size()) return std::nullopt;
  for (std::size_t begin = 0; begin < other.size(); ++begin) {
    bool same = true;
    for (std::size_t i = 0; same && i < cycle_.size(); ++i) {
      same = other[(begin + i) % other.size()].group == cycle_[i].group;
    }
    if (same) return begin;
  }
  return std::nullopt;
}

bool Schedule::keeps(BlockId block) const {
  const auto& uses = uses_of_[block];
  const auto next =
      std::upper_bound(uses.begin(), uses.end(), position_.value_or(0),
                       [](std::size_t position, const auto& use) { return position < use.first; });
  return (next == uses.begin() ? uses.back() : *std::prev(next)).second == Level::kept;
}

bool Schedule::always_keeps(BlockId block) const {
  const auto& uses = uses_of_[block];
  return std::all_of(uses.begin(), uses.end(),
                     [](const auto& use) { return use.second == Level::kept; });
}

bool Schedule::ever(BlockId block, Level level) const {
  const auto& uses = uses_of_[block];
  return std::any_of(uses.begin(), uses.end(),
                     [level](const auto& use) { return use.second == level; });
}

}  // namespace vramx
