#include "policy/order.hpp"

#include <algorithm>

namespace vramx {

std::uint64_t Order::context(std::size_t length) const {
  std::uint64_t hash = 0x9E3779B97F4A7C15ULL;
  for (std::size_t i = 0; i < length; ++i) {
    hash ^= history_[history_.size() - 1 - i] + 0x9E3779B97F4A7C15ULL + (hash << 6) + (hash >> 2);
    hash *= 0xBF58476D1CE4E5B9ULL;
  }
  return hash;
}

void Order::append(GroupId group) {
  if (history_.size() == most_history) {
    forget_oldest();
  }
  history_.push_back(group);
  if (group >= places_.size()) {
    places_.resize(group + 1);
  }
  places_[group].push_back(history_.size() - 1);
}

void Order::seed(const std::vector<GroupId>& groups) {
  for (const GroupId group : groups) {
    append(group);
    for (std::size_t n = 1; n <= std::min(longest_context, history_.size()); ++n) {
      last_[n - 1][context(n)] = history_.size() - 1;
    }
  }
  cursor_.reset();
  followed_ = 0;
}

void Order::used(GroupId group) {
  const bool follows = cursor_ && history_[*cursor_ + 1] == group;
  if (cursor_) judge(history_[*cursor_ + 1], follows);
  append(group);
  const std::size_t present = history_.size() - 1;
  if (follows && cursor_) {
    ++*cursor_;
    ++followed_;
  } else {
    cursor_.reset();
    followed_ = 0;
  }
  for (std::size_t n = std::min(longest_context, history_.size()); n >= 1; --n) {
    auto [it, fresh] = last_[n - 1].try_emplace(context(n), present);
    if (!fresh) {
      if (!cursor_) cursor_ = it->second;
      it->second = present;
    }
  }
}

void Order::judge(GroupId expected, bool came) {
  if (expected >= foretold_right_.size()) foretold_right_.resize(expected + 1, trusted);
  float& right = foretold_right_[expected];
  right += newest * ((came ? 1.0F : 0.0F) - right);
}

std::optional<std::uint64_t> Order::distance(GroupId group) const {
  if (!cursor_ || group >= places_.size()) return std::nullopt;
  const auto& places = places_[group];
  const auto it = std::upper_bound(places.begin(), places.end(), *cursor_);
  if (it == places.end()) return std::nullopt;
  return *it - *cursor_;
}

void Order::forget_oldest() {
  const std::size_t kept = most_history / 2;
  const std::vector<GroupId> recent(history_.end() - static_cast<std::ptrdiff_t>(kept),
                                    history_.end());
  const std::size_t gone = history_.size() - kept;
  const std::size_t followed = followed_;
  const auto cursor = cursor_ && *cursor_ >= gone ? std::optional(*cursor_ - gone) : std::nullopt;
  history_.clear();
  for (auto& places : places_) places.clear();
  for (auto& map : last_) map.clear();
  seed(recent);
  cursor_ = cursor;
  followed_ = cursor ? followed : 0;
}

}  // namespace vramx
