// What the card finds of packed bytes as they arrive in mapped memory.
#include <atomic>
#include <utility>

#include "device/mapped_packing.hpp"

namespace vramx {

namespace {

/// A word that the card may set at any moment.
std::atomic_ref<std::uint32_t> word_at(Address address) {
  return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(address));  // NOLINT
}

}  // namespace

void MappedPacking::cross(const Packed& packed, Address to, CUstream stream) const {
  cuda().check(cuda().copy_to_card(to, packed.host, packed.form->size, stream),
               "cuMemcpyHtoDAsync");
  codec_->verify(*packed.form, to, {.damaged = packed.word(), .any = any_damaged_->start()},
                 number_of(stream));
}

/// Of packed copies that are given up, and are not on their way any more.
void MappedPacking::note_damage(const std::map<Address, Packed>& gone) {
  const std::lock_guard lock(mutex_);
  for (const auto& [start, packed] : gone) {
    if (word_at(packed.word()).load() != 0) gone_damaged_.push_back(packed.unit);
  }
  if (!gone_damaged_.empty()) word_at(any_damaged_->start()) = 1;
}

void MappedPacking::release(Range range) noexcept {
  drop(range);
  const std::lock_guard lock(mutex_);
  std::erase_if(gone_damaged_, [&](Range unit) { return range.contains(unit); });
}

std::vector<Range> MappedPacking::damaged() {
  const std::lock_guard lock(mutex_);
  if (!any_damaged_) return {};
  const auto any = word_at(any_damaged_->start());
  if (any.load() == 0) return {};
  any = 0;  // before the others: one that is set from now on sets it again
  std::vector<Range> found = std::exchange(gone_damaged_, {});
  for (const auto& [start, packed] : packed_) {
    if (word_at(packed.word()).exchange(0) != 0) found.push_back(packed.unit);
  }
  return found;
}

}  // namespace vramx
