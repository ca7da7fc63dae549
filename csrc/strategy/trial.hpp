// Whether a plan is worth keeping: how long the program stalls under it, and without one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>

namespace vramx {

/// Fed with passes of a cycle, in seconds. What a program pauses of its own accord is no stall, so
/// that passes may be compared whatever happens between them. First passes often work longer than
/// later ones, and longer work hides stalls: as much as it was longer counts as hidden. Under a
/// plan that unpacks, work that is longer than without it counts as stalls, as much as unpacking
/// may have slowed it.
class Trial {
 public:
  /// A pass without a plan.
  void streamed(double stalled, double work) { streamed_ = Times{stalled, work}; }

  /// A pass of `length` uses under a plan that is predicted to unpack for so many seconds. Returns
  /// whether the plan is to be left; each time it takes twice as many slow passes in a row as the
  /// time before.
  bool leaves_plan(double stalled, double work, std::size_t length, double unpacking) {
    if (streamed_) {
      const double slowed = std::clamp(work - streamed_->work, 0.0, most_slowed * unpacking);
      stalled += slowed;
      work -= slowed;
    }
    const bool slow =
        streamed_ && stalled > streamed_->stalled_at_most(work) + margin * (work + stalled);
    slow_passes_ = slow ? slow_passes_ + 1 : 0;
    if (slow_passes_ < patience_) return false;
    slow_passes_ = 0;
    patience_ *= 2;
    left_ = Left{.plan = {stalled, work}, .length = length};
    return true;
  }

  /// The last pass was slow, and more are to be looked at.
  bool suspects() const { return slow_passes_ > 0; }

  /// The plan was left, and this is a pass without one since then: it is still the better way.
  bool stays_left(double stalled, double work, std::size_t length) const {
    return left_ && left_->length == length &&
           Times{stalled, work}.stalled_at_most(left_->plan.work) < left_->plan.stalled;
  }
  bool left() const { return left_.has_value(); }
  void take_up() { left_.reset(); }

  /// The plan that was left made use of packed copies: one without them is on trial next, as long
  /// as this one was.
  void give_up_packed() {
    left_.reset();
    patience_ /= 2;
    packs_ = false;
  }
  /// Whether plans may choose packed copies.
  bool packs() const { return packs_; }

 private:
  static constexpr double margin = 0.05;
  /// Times what unpacking is predicted to take.
  static constexpr double most_slowed = 4;

  struct Times {
    double stalled = 0;
    double work = 0;

    /// What a pass of so much work might have stalled.
    double stalled_at_most(double other_work) const {
      return stalled + std::max(0.0, work - other_work);
    }
  };
  struct Left {
    Times plan;  ///< of its last pass
    std::size_t length = 0;
  };

  std::optional<Times> streamed_;
  std::optional<Left> left_;
  unsigned slow_passes_ = 0;
  unsigned patience_ = 3;
  bool packs_ = true;
};

}  // namespace vramx
