// Where the framework keeps, in its own objects, what vramx asks of all weights in every pass.
//
// Asking the framework takes a tenth of a microsecond a tensor and more. So what is asked is read
// where the framework keeps it, once those places were found by their values in tensors made for
// that; where they were not found, the framework is asked.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>

#include "base/range.hpp"

namespace vramx::calls {

using Word = std::uintptr_t;

/// Looks for the places: in `tensor`, with `alias`, which has the same storage and the same count
/// of changes, and `other`, which has a count of its own but is otherwise as `alias`. Returns
/// whether all were found; else none is used.
bool find_layout(nanobind::handle tensor, nanobind::handle alias, nanobind::handle other);

/// How often a tensor was changed in place. Throws what the framework raises where it does not
/// count.
std::uint32_t version_of(nanobind::handle tensor);

/// The address of the object that stands for a tensor's storage; 0 where it has none.
Word storage_of(nanobind::handle tensor);

/// Where the bytes of a tensor's storage begin; 0 where it has none.
Address data_of(nanobind::handle tensor);

}  // namespace vramx::calls
