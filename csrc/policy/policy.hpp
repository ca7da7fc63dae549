// Which block leaves when room is needed. A policy decides and never acts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace vramx {

using BlockId = std::uint32_t;

/// Whether a resident block may leave now.
using MayLeave = std::function<bool(BlockId)>;

/// Called under the residency's lock, one call at a time.
class Policy {
 public:
  virtual ~Policy() = default;
  /// `block` is coming to the card.
  virtual void arrived(BlockId block) = 0;
  /// A lease takes `block`, which is on the card.
  virtual void touched(BlockId block) = 0;
  /// `block` is leaving the card.
  virtual void left(BlockId block) = 0;
  /// A block on the card for which `may_leave` holds, or none if there is no such block.
  virtual std::optional<BlockId> victim(const MayLeave& may_leave) const = 0;
};

/// What is known of the future.
class Future {
 public:
  virtual ~Future() = default;
  /// How many leases from now `block` is used again; none where nothing is known of it.
  virtual std::optional<std::uint64_t> next_use(BlockId block) const = 0;
};

/// The names make_policy takes, sorted.
std::vector<std::string> policy_names();

/// Throws BadConfig on an unknown name. `future` outlives the policy.
std::unique_ptr<Policy> make_policy(const std::string& name, const Future& future);

}  // namespace vramx
