// Which blocks leave when room is needed, and which come ahead of their use. A strategy decides and
// never acts.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "device/device.hpp"
#include "strategy/recency.hpp"
#include "strategy/usage.hpp"
#include "table/block_table.hpp"

namespace vramx {

/// Whether a resident block may leave now.
using Evictable = std::function<bool(BlockId)>;

/// What to fetch ahead.
struct Ahead {
  Blocks wanted;  ///< on the host, in the order of need
  FetchCause why = FetchCause::order;
  Evictable evictable;  ///< for them
};

/// What a strategy may know of its session, all of which outlives it. In the table it marks what it
/// has planned; all else there is not its to change.
struct View {
  BlockTable& table;
  Device& device;
  const std::atomic<Bytes>& budget;
  Bytes block = 0;                                  ///< the most bytes of one
  std::function<void(const Prediction&)> has_plan;  ///< told of each plan that comes in force
};

/// Called under the residency's lock, one call at a time.
class Strategy {
 public:
  Strategy() = default;
  virtual ~Strategy() = default;
  Strategy(const Strategy&) = delete;
  Strategy& operator=(const Strategy&) = delete;

  /// `block` is coming to the card.
  virtual void fetched(BlockId block) = 0;
  /// A lease takes `block`, which is on the card.
  virtual void leased(BlockId block) = 0;
  /// `block` is leaving the card.
  virtual void evicted(BlockId block) = 0;
  /// A block on the card for which `evictable` holds, or none if there is no such block.
  virtual std::optional<BlockId> victim(const Evictable& evictable) const = 0;
  /// As victim, but only one that a plan has let go.
  virtual std::optional<BlockId> released_victim(const Evictable& /*evictable*/) const {
    return {};
  }

  /// As victim, of the blocks that rest in a place below the card: the one that came there last,
  /// which of a cycle is the one that is used again latest.
  std::optional<BlockId> victim_below(Place place, const Evictable& evictable) const;
  /// A block that rested in one place rests in another now.
  void moved(BlockId block, Place from, Place to);

  /// A first guess at the order of use.
  virtual void guess(const std::vector<GroupId>& /*order*/) {}
  /// A use of a group begins on a stream, whether or not its blocks are there yet.
  virtual void used(GroupId /*group*/, Stream /*stream*/) {}
  /// Some of its blocks were not on the card.
  virtual void missed() {}
  /// Whether `began` is to be told of the present use.
  virtual bool wants_times() const { return false; }
  /// Whether deciding has held up the present use, so that it begins later than it was asked for.
  virtual bool held_up() const { return false; }
  /// The blocks of the last of the groups in use had come when the stream reached `began`; it had
  /// done all before them when it reached `asked`.
  virtual void began(const std::vector<GroupId>& /*in_use*/, Fence /*asked*/, Fence /*began*/) {}
  /// What comes next, as far as there will be room.
  virtual Ahead ahead() { return {}; }

  /// Whether the program is expected to allocate again, soon, the memory of a dead block.
  virtual bool reuses(BlockId /*block*/) const { return false; }
  /// Whether it keeps all of these blocks, which are in use, until they are used again.
  virtual bool keeps(const Blocks& /*blocks*/) const { return false; }
  /// Whether it keeps a block from each of its uses to the next.
  virtual bool always_keeps(BlockId /*block*/) const { return false; }
  /// Whether it expects that nothing moves, though something is not on the card.
  virtual bool all_fits() const { return false; }
  virtual std::optional<PlanUsage> plan() const { return {}; }

  /// The group's blocks are about to change.
  virtual void redefines(GroupId /*group*/) {}
  /// The block is about to be given up.
  virtual void forgets(BlockId /*block*/) {}
  virtual void budget_changed() {}

 private:
  PerPlace<Recency> below_card_;  ///< what rests there
};

using MakeStrategy = std::function<std::unique_ptr<Strategy>(const View&)>;

/// The names that make_strategy takes, sorted.
std::vector<std::string> strategy_names();

/// Throws BadConfig on an unknown name.
std::unique_ptr<Strategy> make_strategy(const std::string& name, const View& view);

}  // namespace vramx
