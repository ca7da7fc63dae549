#include "calls/aliases.hpp"

#include <utility>

#include "calls/tensor_layout.hpp"

namespace vramx::calls {

void Aliases::add(nanobind::object alias, Address start, Bytes size) {
  const std::uint32_t version = version_of(alias);
  known_.push_back({std::move(alias), version, {start, size}});
}

Ranges Aliases::look() {
  Ranges changed;
  std::vector<Alias> kept;
  for (Alias& alias : std::exchange(known_, {})) {
    const std::uint32_t now = version_of(alias.tensor);
    if (std::exchange(alias.version, now) != now) changed.push_back(alias.range);
    if (Py_REFCNT(alias.tensor.ptr()) > 1) kept.push_back(std::move(alias));
  }
  // Letting go of a tensor may run Python code, which may ask for another alias.
  for (Alias& alias : kept) known_.push_back(std::move(alias));
  return changed;
}

}  // namespace vramx::calls
