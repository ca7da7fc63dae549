// Aliases of weights that have counts of changes of their own.
//
// A program that writes through ``parameter.data`` writes to the weight, and the framework counts
// the change on the alias alone. So each alias that is handed out is kept until a look finds that
// nobody else has it any more; a look tells which of them were changed since the one before.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include "calls/leases.hpp"

namespace vramx::calls {

/// Those of one core's weights. Under the interpreter's lock.
class Aliases {
 public:
  /// An alias of weights whose storage is a range of the core's.
  void add(nanobind::object alias, Address start, Bytes size);
  bool empty() const { return known_.empty(); }
  /// Returns where those lie that were changed since the last look, and lets go of those that
  /// nobody else has.
  Ranges look();

 private:
  struct Alias {
    nanobind::object tensor;
    std::uint32_t version;
    std::pair<Address, Bytes> range;
  };

  std::vector<Alias> known_;
};

}  // namespace vramx::calls
