#include "strategy/order.hpp"

#include <algorithm>
#include <iterator>

namespace vramx {

/// How many of the last uses, up to `longest_context`, an earlier place has before it too.
std::size_t Order::context_shared_with(std::size_t place) const {
  const std::size_t present = history_.size() - 1;
  std::size_t length = 0;
  while (length < longest_context && length <= place &&
         history_[place - length] == history_[present - length]) {
    ++length;
  }
  return length;
}

/// The latest earlier place with the longest context.
void Order::find_cursor() {
  const auto& places = places_[history_.back()];
  std::size_t longest = 0;
  std::size_t looked_at = 0;
  for (auto it = std::next(places.rbegin()); it != places.rend(); ++it) {
    if (++looked_at > most_looked_at || longest == longest_context) return;
    const std::size_t length = context_shared_with(*it);
    if (length <= longest) continue;
    longest = length;
    cursor_ = *it;
  }
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
  for (const GroupId group : groups) append(group);
  cursor_.reset();
  followed_ = 0;
}

void Order::used(GroupId group) {
  const bool follows = cursor_ && history_[*cursor_ + 1] == group;
  if (cursor_) judge(history_[*cursor_ + 1], follows);
  append(group);
  if (follows && cursor_) {
    ++*cursor_;
    ++followed_;
    return;
  }
  cursor_.reset();
  followed_ = 0;
  find_cursor();
}

void Order::judge(GroupId expected, bool came) {
  if (expected >= foretold_right_.size()) foretold_right_.resize(expected + 1, unknown);
  float& right = foretold_right_[expected];
  if (right == unknown) right = trusted;
  for (float* const share : {&right, &all_foretold_right_}) {
    *share += newest * ((came ? 1.0F : 0.0F) - *share);
  }
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
  seed(recent);
  cursor_ = cursor;
  followed_ = cursor ? followed : 0;
}

}  // namespace vramx
