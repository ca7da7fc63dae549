#include "core/core.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/fork.hpp"
#include "base/team.hpp"
#include "pool/placing.hpp"

namespace vramx {

namespace {

constexpr Bytes largest_arena = GiB;
/// Where blocks share frames (device/frames.hpp), arenas are larger, and so that their last blocks
/// are as large as others, unless that is a good part of them.
constexpr Bytes largest_shared = 4 * GiB;
constexpr Bytes blocks_rounded = 8;
constexpr Bytes copied_at_once = 4 * MiB;

/// Carries out copies in pieces, on several threads.
void copy_all(const std::vector<Copy>& copies, Bytes at_once,
              const std::function<void(const Copy&)>& one) {
  std::vector<Copy> pieces;
  for (const Copy& copy : copies) {
    for (Bytes at = 0; at < copy.size; at += at_once) {
      pieces.push_back({copy.device + at, copy.program + at, std::min(at_once, copy.size - at)});
    }
  }
  in_team(pieces.size(), [&](std::size_t i) { one(pieces[i]); });
}

}  // namespace

Memory::Memory(std::shared_ptr<Core> core, std::shared_ptr<Arena> arena, Range range)
    : core_(std::move(core)), arena_(std::move(arena)), range_(range) {}

Memory::Memory(std::shared_ptr<Core> core, Range range) : core_(std::move(core)), range_(range) {}

Memory::~Memory() {
  if (!arena_) core_->free(range_.start);
}

const Facts& Memory::card() const { return core_->device()->facts(); }

Core::Core(std::shared_ptr<Device> device, Settings settings, const MakeStrategy& make_strategy)
    : device_(std::move(device)),
      residency_(std::make_shared<Residency>(device_, settings, make_strategy)),
      scratch_(std::make_unique<Scratch>(device_, residency_, settings.block)),
      pointers_(device_),
      block_(settings.block),
      generation_(process_generation()) {}

Core::~Core() {
  if (generation_ == process_generation()) return;
  // A forked child's locks and waits are copies of the parent's and cannot be taken down.
  static_cast<void>(scratch_.release());
  new std::shared_ptr<Residency>(std::move(residency_));
}

std::vector<std::shared_ptr<Memory>> Core::reserve(const std::vector<Bytes>& sizes,
                                                   Purpose purpose) {
  Store& memory = device_->memory(purpose);
  const bool shares =
      memory.packing() != nullptr && memory.traits().unit == block_ && purpose == Purpose::weights;
  Placing placing = place(sizes, memory.traits().granule,
                          std::max(shares ? largest_shared : largest_arena, block_));
  for (Bytes& size : placing.arenas) {
    if (shares && size >= blocks_rounded * block_) size = round_up(size, block_);
  }
  const bool confined = device_->memory(purpose).confines(purpose);
  std::vector<std::shared_ptr<Arena>> arenas;
  for (const Bytes size : placing.arenas) {
    arenas.push_back(std::make_shared<Arena>(device_, residency_, size, purpose, confined));
    if (confined) residency_->place(residency_->blocks_of(arenas.back()->range()), 0, nullptr);
  }
  std::vector<std::shared_ptr<Memory>> memories;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto& [arena, offset] = placing.placements[i];
    memories.push_back(std::make_shared<Memory>(
        shared_from_this(), arenas[arena], Range{arenas[arena]->range().start + offset, sizes[i]}));
  }
  return memories;
}

std::shared_ptr<Memory> Core::empty(Bytes size, Stream stream, const Poll& poll) {
  return std::make_shared<Memory>(shared_from_this(), scratch_->allocate(size, stream, poll));
}

void Core::free(Address address) noexcept {
  if (generation_ == process_generation()) scratch_->free(address);
}

Blocks Core::blocks_of(const std::vector<Copy>& copies) const {
  Blocks all;
  for (const Copy& copy : copies) {
    const Blocks blocks = residency_->blocks_of({copy.device, copy.size});
    all.insert(all.end(), blocks.begin(), blocks.end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

Store& Core::memory_at(Address address) const {
  return device_->memory(residency_->holds_weights(address) ? Purpose::weights : Purpose::scratch);
}

template <class One>
void Core::copy_on_host(const std::vector<Copy>& copies, Residency::HostWork kind, const One& one) {
  const Traits& traits = device_->memory(Purpose::weights).traits();
  // A part of what is packed alone takes as long as the whole.
  const Bytes at_once = traits.keeps_raw ? copied_at_once : traits.unit;
  const auto copy = [&](const std::vector<Copy>& some) {
    residency_->on_host(blocks_of(some), [&] { copy_all(some, at_once, one); }, nullptr, kind);
  };
  if (device_->memory(Purpose::weights).lowest() == Place::host) return copy(copies);
  for (const Copy& each : copies) copy({each});  // the host may not have room for all at once
}

void Core::store(const std::vector<Copy>& copies) {
  copy_on_host(copies, Residency::HostWork::writes, [&](const Copy& copy) {
    memory_at(copy.device)
        .store(copy.device, reinterpret_cast<const void*>(copy.program), copy.size);  // NOLINT
  });
}

void Core::load(const std::vector<Copy>& copies) {
  copy_on_host(copies, Residency::HostWork::reads, [&](const Copy& copy) {
    memory_at(copy.device)
        .load(reinterpret_cast<void*>(copy.program), copy.device, copy.size);  // NOLINT
  });
}

void Core::close(const Poll& poll) { residency_->close(poll); }

}  // namespace vramx
