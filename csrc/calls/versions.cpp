#include "calls/versions.hpp"

#include <utility>

#include "calls/tensor_layout.hpp"

namespace nb = nanobind;

namespace vramx::calls {

Versions::Versions(std::vector<nb::object> tensors)
    : tensors_(std::move(tensors)), total_(total()) {}

bool Versions::changed() {
  const std::int64_t now = total();
  return std::exchange(total_, now) != now;
}

std::int64_t Versions::total() const {
  std::int64_t total = 0;
  for (const nb::object& tensor : tensors_) total += version_of(tensor);
  return total;
}

}  // namespace vramx::calls
