// Plans of one trace with a given room for fetching ahead and a given use of packed copies, of
// which make_plan takes the best.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/plan.hpp"
#include "plan/spans.hpp"
#include "plan/spread.hpp"

namespace vramx {

/// What a plan does with the packed copies that there are.
struct PackedUse {
  double kept = 0;       ///< so much of what could rest on the card packed does
  bool streams = false;  ///< what leaves crosses the link packed, not only what has to
};

class Planner {
 public:
  Planner(const Trace& trace, Bytes budget, Rates rates);

  Bytes most_ahead() const { return rest_ - trace_.largest_step(); }
  /// Whether there are packed copies to make use of.
  bool packs() const;
  /// Plans that keep blocks packed start from what a plan without them cannot keep.
  void improve_on(const Plan& raw);

  /// With room for so much ahead. What could not leave evenly, for want of blocks, is made up for
  /// in bursts of so many bytes at most.
  Plan plan(Bytes ahead, Bytes burst, PackedUse use) const;

 private:
  using Places = std::vector<std::size_t>;  ///< of spans
  using Loads = std::vector<std::int64_t>;  ///< bytes by step
  /// A block that may rest on the card packed.
  struct Candidate {
    std::size_t longest = 0;  ///< its span
    double gain = 0;          ///< a byte of the room that it takes
  };

  std::int64_t size(std::uint32_t block) const {
    return static_cast<std::int64_t>(trace_.blocks[block].size);
  }
  double unpacking() const { return rates_.up / rates_.unpack; }
  double cost_a_byte(const Span& span, Level away) const;
  std::vector<Places> by_worth(const std::vector<Level>& away) const;
  Taken taken(std::size_t at, Bytes bytes) const;

  void add(const Places& places, Load& load, int sign) const;
  void keep_most(const Places& group, std::int64_t room, Bytes burst, Load& load,
                 std::vector<bool>& keep) const;
  Places keep_what_fits(const Places& places, std::int64_t room, Load& load) const;

  Bytes keep_packed(double share, std::int64_t room, Bytes burst, const Loads& held,
                    std::vector<Level>& away) const;
  Bytes choose_packed(double most, Bytes burst, std::vector<Level>& away) const;
  std::int64_t most_beside(const std::vector<Level>& away, const Loads& held) const;

  const Trace& trace_;
  Bytes budget_;
  Bytes rest_;  ///< of it, for blocks
  Rates rates_;
  Axis axis_;
  std::vector<Span> spans_;
  Loads held_;
  std::vector<std::vector<Candidate>> candidates_;  ///< those with about the same gain together
};

}  // namespace vramx
