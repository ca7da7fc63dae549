// A reserved range in residency's charge, that gives itself back.
#pragma once

#include <memory>

#include "residency/residency.hpp"

namespace vramx {

class Arena {
 public:
  /// Throws what Device::reserve and Residency::adopt throw.
  Arena(std::shared_ptr<Device> device, std::shared_ptr<Residency> residency, Bytes size,
        Purpose purpose, bool dead);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Range range() const { return range_; }

 private:
  std::shared_ptr<Device> device_;
  Store& memory_;
  std::shared_ptr<Residency> residency_;
  std::uint64_t generation_;
  Range range_;
};

}  // namespace vramx
