// What a lease is asked for.
#pragma once

#include <optional>

#include "base/ids.hpp"
#include "device/streams.hpp"
#include "residency/settings.hpp"

namespace vramx {

using MaybeGroup = std::optional<GroupId>;

struct Lease {
  const Blocks& blocks;
  Stream stream = 0;
  bool held_by_thread = true;
  MaybeGroup group{};  ///< whose use it is, where it is part of the learned order
};

}  // namespace vramx
