// A half-open range of addresses.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/bytes.hpp"

namespace vramx {

using Address = std::uintptr_t;

struct Range {
  Address start = 0;
  Bytes size = 0;

  Address end() const { return start + size; }
  bool contains(Address address) const { return address >= start && address < end(); }
  bool contains(const Range& other) const { return other.start >= start && other.end() <= end(); }
  bool overlaps(const Range& other) const { return start < other.end() && other.start < end(); }
  /// What both hold; they overlap.
  Range common(const Range& other) const {
    const Address from = std::max(start, other.start);
    return {from, std::min(end(), other.end()) - from};
  }
  void* data() const { return reinterpret_cast<void*>(start); }  // NOLINT
};

}  // namespace vramx
