#include "world.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

using namespace vramx;

World::World(rig::Rig& rig, const WorldSpec& spec)
    : rig_(rig), block_(rig.device()->traits().granule), values_(spec.blocks) {
  Settings settings;
  settings.budget = spec.budget * block_;
  settings.block = block_;
  settings.threaded = spec.threaded;
  residency_ = std::make_shared<Residency>(rig.device(), settings, [&](const View& view) {
    return spec.strategy ? spec.strategy(view) : make_strategy(spec.policy, view);
  });
  range_ = rig.device()->reserve(spec.blocks * block_, spec.purpose);
  residency_->adopt(range_, spec.purpose, false);
  for (BlockId id = 0; id < spec.blocks; ++id) {
    values_[id] = static_cast<unsigned char>(id + 1);
    const std::vector<unsigned char> bytes(block_, values_[id]);
    rig.device()->store(at(id).start, bytes.data(), bytes.size());
  }
  if (!spec.packed) return;
  Blocks all(spec.blocks);
  std::iota(all.begin(), all.end(), 0);
  pack(all);
}

void World::pack(const Blocks& blocks) {
  const Bytes size = std::min(block_, std::max(block_ / 4, 64 * KiB));
  std::vector<TypedRange> weights;
  for (const BlockId id : blocks) {
    weights.push_back({.offset = at(id).start, .size = size, .type = Type::bf16});
  }
  residency_->pack(std::move(weights), nullptr);
}

World::~World() {
  try {
    residency_->forget(range_, false);
  } catch (const std::exception&) {
    // A failed test may have left a lease.
  }
  residency_.reset();
  rig_.device()->release(range_);
}

Range World::at(BlockId id) const { return {range_.start + id * block_, block_}; }

Range World::seen(BlockId id) const {
  const Address host = rig_.device()->host_address(at(id).start);
  return host == 0 || residency_->on_card({id}) ? at(id) : Range{host, block_};
}

void World::write(BlockId id) {
  values_[id] = static_cast<unsigned char>(values_[id] % 200 + 1);
  std::memset(seen(id).data(), values_[id], block_);
}

bool World::reads(BlockId id) const {
  const auto* bytes = static_cast<const unsigned char*>(seen(id).data());
  if (!rig_.poisons()) {
    // The bytes lie at one address wherever they are: a look is enough, and large blocks are slow.
    return bytes[0] == values_[id] && bytes[block_ / 2] == values_[id] &&
           bytes[block_ - 1] == values_[id];
  }
  return std::all_of(bytes, bytes + block_,
                     [&](unsigned char byte) { return byte == values_[id]; });
}

bool World::kept_on_host() const {
  std::vector<unsigned char> bytes(block_);
  for (BlockId id = 0; id < values_.size(); ++id) {
    rig_.device()->load(bytes.data(), at(id).start, block_);
    if (bytes != std::vector<unsigned char>(block_, values_[id])) return false;
    const std::vector<unsigned char> poisoned(block_, poison);
    if (rig_.poisons() && std::memcmp(at(id).data(), poisoned.data(), block_) != 0) return false;
  }
  return true;
}
